-- The result that each attempt ended with, null where it ended without one; parallel arrays.
SELECT attempts.run, attempts.epoch, attempts.finish_id
FROM unnest(CAST(:runs AS text[]), CAST(:epochs AS bigint[])) AS said (run, epoch)
JOIN queue.attempts ON attempts.run = said.run AND attempts.epoch = said.epoch
