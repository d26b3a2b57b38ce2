-- Lock the leases of attempts that failed, and read what decides what becomes of their runs; parallel
-- arrays. `sessions`: an attempt counts only while its lease is still that session's, whatever adopted it
-- meanwhile; null: whosever it is. `cancelled`: the stop_requested of a run that somebody cancelled.
SELECT lease.run, lease.epoch, lease.agent,
       coalesce(lease.stop_requested = CAST(:cancelled AS smallint), false) AS cancel_requested,
       (SELECT launch_specs.retry_policy
        FROM queue.runs JOIN queue.launch_specs ON launch_specs.digest = runs.launch_spec
        WHERE runs.name = lease.run) AS retry_policy,
       ARRAY(
           SELECT attempts.epoch FROM queue.attempts
           WHERE attempts.run = lease.run AND attempts.cause = said.cause ORDER BY attempts.epoch
       ) AS alike_epochs,
       ARRAY(
           SELECT attempts.agent FROM queue.attempts
           WHERE attempts.run = lease.run AND attempts.cause = said.cause ORDER BY attempts.epoch
       ) AS alike_agents
FROM (
    SELECT *
    FROM unnest(
        CAST(:runs AS text[]), CAST(:epochs AS bigint[]), CAST(:causes AS smallint[]),
        CAST(:sessions AS uuid[])
    ) AS said (run, epoch, cause, session)
    ORDER BY run COLLATE "C"
) AS said
CROSS JOIN LATERAL (
    SELECT * FROM queue.leases
    WHERE leases.run = said.run AND leases.epoch = said.epoch
      AND (said.session IS NULL OR leases.session = said.session)
    FOR UPDATE
) AS lease
