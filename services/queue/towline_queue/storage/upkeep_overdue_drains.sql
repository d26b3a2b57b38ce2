-- Have the attempts of agents whose drain deadline has passed preempted, each by its own epoch.
-- A run that somebody else holds is left for the next sweep.
WITH overdue AS MATERIALIZED (
    SELECT runs.name AS run, runs.epoch
    FROM queue.agents
    JOIN queue.leases ON leases.agent = agents.name
    JOIN queue.runs ON runs.name = leases.run AND runs.epoch = leases.epoch
    WHERE agents.drain_deadline <= now()
      AND runs.state = ANY(CAST(:active AS smallint[]))
      AND runs.preempt_epoch IS DISTINCT FROM runs.epoch
    LIMIT :most
    FOR SHARE OF agents SKIP LOCKED
    FOR NO KEY UPDATE OF runs SKIP LOCKED
)
UPDATE queue.runs
SET preempt_epoch = overdue.epoch
FROM overdue
WHERE runs.name = overdue.run
RETURNING runs.name AS run
