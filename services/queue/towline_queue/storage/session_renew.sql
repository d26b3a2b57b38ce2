-- Renew sessions that still have their agent's name, and with them all their leases.
UPDATE queue.sessions
SET seen_time = now()
FROM queue.agents
WHERE sessions.id = ANY(CAST(:sessions AS uuid[]))
  AND agents.name = sessions.agent AND agents.session = sessions.id
RETURNING sessions.id, agents.draining
