-- Queues and the agents that serve them, with what these hold; those of one queue that are alike come
-- once, with their number. A queue that nobody serves comes once, with an agent of nulls.
SELECT
    queue.name AS queue,
    queue.paused,
    agents.capacity,
    cardinality(agents.gpus) AS gpus,
    agents.draining,
    agents.withheld,
    coalesce({reachable}, false) AS connected,
    coalesce(held.slots, 0) AS busy_slots,
    coalesce(held.gpus, 0) AS busy_gpus,
    count(*) AS alike
FROM queue.queues AS queue
LEFT JOIN queue.agents AS agents ON queue.name = ANY (agents.queues)
LEFT JOIN queue.sessions AS sessions ON sessions.id = agents.session
LEFT JOIN LATERAL (
    SELECT count(*) AS slots, sum(cardinality(leases.gpu_ids)) AS gpus
    FROM queue.leases AS leases
    WHERE leases.agent = agents.name
) AS held ON true
WHERE queue.name = ANY (:queues)
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
