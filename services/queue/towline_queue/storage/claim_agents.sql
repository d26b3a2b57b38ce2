-- Lock agents, and return them with the GPUs that their leases hold; one that is locked already is left out.
SELECT agents.name, held.gpu_ids
FROM queue.agents
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(gpu.id), '{}') AS gpu_ids
    FROM queue.leases
    CROSS JOIN LATERAL unnest(leases.gpu_ids) AS gpu (id)
    WHERE leases.agent = agents.name
) AS held
WHERE agents.name = ANY(CAST(:agents AS text[]))
ORDER BY agents.name
FOR NO KEY UPDATE OF agents SKIP LOCKED
