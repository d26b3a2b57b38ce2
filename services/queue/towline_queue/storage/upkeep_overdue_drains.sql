-- Have the attempts of agents whose drain deadline has passed preempted, but for those that are to be
-- stopped anyway. A lease that somebody else holds is left for the next sweep.
WITH overdue AS MATERIALIZED (
    SELECT leases.run
    FROM queue.agents
    JOIN queue.leases ON leases.agent = agents.name
    WHERE agents.drain_deadline <= now() AND leases.stop_requested IS NULL
    LIMIT :most
    FOR SHARE OF agents SKIP LOCKED
    FOR NO KEY UPDATE OF leases SKIP LOCKED
)
UPDATE queue.leases
SET stop_requested = CAST(:preempted AS smallint)
FROM overdue
WHERE leases.run = overdue.run
RETURNING leases.run
