-- Lock the first waiting runs of each lane, up to `mosts`, those of paused queues excepted.
-- Lanes come as parallel arrays. Rows that another dispatcher or a cancel holds are passed over:
-- both tables are locked at once, so a claim never waits for a run and cannot deadlock with a cancel.
SELECT head.run, lane.queue, lane.shape, head.priority, head.seq, now() - head.ready_time AS waited
FROM unnest(CAST(:queues AS text[]), CAST(:shapes AS smallint[]), CAST(:mosts AS integer[]))
       AS lane (queue, shape, most)
JOIN queue.queues ON queues.name = lane.queue AND NOT queues.paused
CROSS JOIN LATERAL (
    SELECT ready.run, ready.priority, ready.seq, ready.ready_time
    FROM queue.ready
    JOIN queue.runs ON runs.name = ready.run
    WHERE ready.queue = lane.queue AND ready.shape = lane.shape
    ORDER BY ready.priority, ready.seq
    LIMIT lane.most
    FOR UPDATE OF ready, runs SKIP LOCKED
) AS head
