-- Look at the first waiting runs of each lane without taking them. Lanes come as parallel arrays `queues`,
-- `shapes`, `mosts`; of a lane whose `most` is 0, the first run of each priority.
-- `priorities` and `floors` are those of claim.sql.
SELECT head.run, lane.queue, lane.shape, head.priority, head.seq, now() - head.ready_time AS waited
FROM unnest(CAST(:queues AS text[]), CAST(:shapes AS smallint[]), CAST(:mosts AS integer[]))
    WITH ORDINALITY AS lane (queue, shape, most, number)
JOIN queue.queues ON queues.name = lane.queue AND NOT queues.paused
CROSS JOIN LATERAL (
    SELECT level.priority, waiting.*
    FROM unnest(CAST(:priorities AS smallint[])) WITH ORDINALITY AS level (priority, number)
    CROSS JOIN LATERAL (
        SELECT run.name AS run, run.seq, span.ready_time
        FROM (
            SELECT ready.first_run, ready.size, ready.ready_time
            FROM queue.ready
            WHERE ready.queue = lane.queue AND ready.shape = lane.shape
              AND ready.priority = level.priority
              AND ready.seq >= (CAST(:floors AS bigint[]))
                  [(lane.number - 1) * cardinality(CAST(:priorities AS smallint[])) + level.number]
            ORDER BY ready.seq
            LIMIT greatest(lane.most, 1)
        ) AS span
        CROSS JOIN LATERAL (
            SELECT runs.name, runs.seq
            FROM queue.runs
            WHERE runs.name >= span.first_run
            ORDER BY runs.name
            LIMIT span.size
        ) AS run
        LIMIT greatest(lane.most, 1)
    ) AS waiting
    LIMIT nullif(lane.most, 0)
) AS head
