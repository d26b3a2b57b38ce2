-- Agents that serve the queues, with what they hold; an agent that serves two of them comes twice.
SELECT
    queue.name AS queue,
    agents.capacity,
    cardinality(agents.gpus) AS gpus,
    agents.draining,
    coalesce(sessions.seen_time + sessions.disconnected_after > clock_timestamp(), false) AS connected,
    coalesce(held.slots, 0) AS busy_slots,
    coalesce(held.gpus, 0) AS busy_gpus
FROM unnest(:queues) AS queue(name)
JOIN queue.agents AS agents ON queue.name = ANY (agents.queues)
LEFT JOIN queue.sessions AS sessions ON sessions.id = agents.session
LEFT JOIN LATERAL (
    SELECT count(*) AS slots, sum(cardinality(leases.gpu_ids)) AS gpus
    FROM queue.leases AS leases
    WHERE leases.agent = agents.name
) AS held ON true
