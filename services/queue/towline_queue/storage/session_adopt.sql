-- Give locked leases to sessions of their agents; parallel arrays.
UPDATE queue.leases
SET session = adopted.session, accepted = true
FROM unnest(CAST(:runs AS text[]), CAST(:epochs AS bigint[]), CAST(:sessions AS uuid[]))
         AS adopted (run, epoch, session)
WHERE leases.run = adopted.run AND leases.epoch = adopted.epoch
