-- Renew sessions that still have their agent's name, and with them all their leases. Locked in the order of
-- their agents, as sessions are replaced, so that a renewal cannot deadlock with newcomers.
WITH current AS MATERIALIZED (
    SELECT sessions.id, agents.draining
    FROM queue.sessions
    JOIN queue.agents ON agents.name = sessions.agent AND agents.session = sessions.id
    WHERE sessions.id = ANY(CAST(:sessions AS uuid[]))
    ORDER BY sessions.agent
    FOR NO KEY UPDATE OF sessions
)
UPDATE queue.sessions
SET seen_time = now()
FROM current
WHERE sessions.id = current.id
RETURNING sessions.id, current.draining
