-- Lock the runs of attempts that failed, and read what decides what becomes of them; parallel arrays.
-- `sessions`: an attempt counts only while its lease is still that session's; null: whosever it is.
-- Both rows are locked, so that a lease that another session has adopted meanwhile is seen as adopted.
SELECT runs.name AS run, runs.epoch, runs.cancel_requested, runs.retry_policy,
       leases.agent,
       ARRAY(
           SELECT attempts.epoch FROM queue.attempts
           WHERE attempts.run = runs.name AND attempts.cause = said.cause ORDER BY attempts.epoch
       ) AS alike_epochs,
       ARRAY(
           SELECT attempts.agent FROM queue.attempts
           WHERE attempts.run = runs.name AND attempts.cause = said.cause ORDER BY attempts.epoch
       ) AS alike_agents
FROM unnest(
    CAST(:runs AS text[]), CAST(:epochs AS bigint[]), CAST(:causes AS smallint[]), CAST(:sessions AS uuid[])
) AS said (run, epoch, cause, session)
JOIN queue.runs ON runs.name = said.run AND runs.epoch = said.epoch
JOIN queue.leases ON leases.run = runs.name AND leases.epoch = runs.epoch
WHERE runs.state = ANY(CAST(:sources AS smallint[]))
  AND (said.session IS NULL OR leases.session = said.session)
ORDER BY runs.name
FOR NO KEY UPDATE OF runs, leases
