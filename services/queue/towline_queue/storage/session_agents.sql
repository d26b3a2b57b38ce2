-- Lock agents in the order of their names, so that of two sessions of one agent the second waits.
SELECT name, instance_id, hello_seq, hostname, session, session_epoch, draining
FROM queue.agents
WHERE name = ANY(CAST(:agents AS text[]))
ORDER BY name
FOR NO KEY UPDATE
