-- Count the runs of a queue that come before the place (`priority`, `seq`), up to `most`. Each lane, that
-- is each shape the queue has and each of `priorities`, is counted in its index, span by span; the shapes are
-- found in one step each.
WITH RECURSIVE shape AS (
    SELECT min(ready.shape) AS gpus FROM queue.ready WHERE ready.queue = :queue
    UNION ALL
    SELECT (SELECT min(ready.shape) FROM queue.ready WHERE ready.queue = :queue AND ready.shape > shape.gpus)
    FROM shape
    WHERE shape.gpus IS NOT NULL
)
SELECT least(coalesce(CAST(sum(runs) AS bigint), 0), :most)
FROM (
    SELECT ahead.runs
    FROM shape
    CROSS JOIN unnest(CAST(:priorities AS smallint[])) AS level (priority)
    CROSS JOIN LATERAL (
        SELECT least(ready.size, place.seq - ready.seq) AS runs
        FROM (
            SELECT CASE WHEN level.priority < CAST(:priority AS smallint) THEN 9223372036854775807
                        ELSE CAST(:seq AS bigint) END AS seq
        ) AS place
        JOIN queue.ready
          ON ready.queue = :queue AND ready.shape = shape.gpus AND ready.priority = level.priority
          AND ready.seq < place.seq
        LIMIT :most
    ) AS ahead
    LIMIT :most
) AS ahead
