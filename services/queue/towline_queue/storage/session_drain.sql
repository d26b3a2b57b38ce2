UPDATE queue.agents SET draining = true WHERE name = :agent AND session = CAST(:session AS uuid)
