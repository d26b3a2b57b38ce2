-- End a session that holds no lease.
UPDATE queue.agents
SET session = NULL
WHERE name = :agent AND session = CAST(:session AS uuid)
  AND NOT EXISTS (SELECT FROM queue.leases WHERE leases.agent = agents.name)
