-- Keep a session current until the end of the transaction; no row: it was superseded.
SELECT name FROM queue.agents
WHERE name = :agent AND session = CAST(:session AS uuid)
FOR SHARE
