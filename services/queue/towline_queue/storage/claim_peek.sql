-- Look at the first waiting run of each (queue, shape, priority) without taking it.
SELECT head.run, lane.queue, lane.shape, level.priority, head.seq, now() - head.ready_time AS waited
FROM unnest(CAST(:queues AS text[]), CAST(:shapes AS smallint[])) AS lane (queue, shape)
JOIN queue.queues ON queues.name = lane.queue AND NOT queues.paused
CROSS JOIN unnest(CAST(:priorities AS smallint[])) AS level (priority)
CROSS JOIN LATERAL (
    SELECT ready.run, ready.seq, ready.ready_time
    FROM queue.ready
    WHERE ready.queue = lane.queue AND ready.shape = lane.shape AND ready.priority = level.priority
    ORDER BY ready.seq
    LIMIT 1
) AS head
