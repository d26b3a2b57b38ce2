-- Lock the leases of agents, in the order of their runs.
SELECT run, epoch, agent, accepted, state, stop_requested
FROM queue.leases
WHERE agent = ANY(CAST(:agents AS text[]))
ORDER BY run
FOR NO KEY UPDATE
