-- Fail runs that have waited for an agent longer than they may. Those that a dispatcher or a cancel holds
-- are passed over, so that a run that is being claimed is not failed. Spans fail whole: as many as have `most` runs.
WITH due AS MATERIALIZED (
    SELECT span.at
    FROM (
        SELECT ctid AS at, size
        FROM queue.ready
        WHERE expire_time <= now()
        ORDER BY expire_time
        LIMIT :most
        FOR UPDATE SKIP LOCKED
    ) AS span
    CROSS JOIN LATERAL generate_series(1, span.size)
    LIMIT :most
), taken AS (
    DELETE FROM queue.ready WHERE ctid = ANY(ARRAY(SELECT DISTINCT at FROM due))
    RETURNING first_run, size
)
UPDATE queue.runs
SET state = CAST(:target AS smallint), failure = CAST(:failure AS bytea), end_time = now()
WHERE name = ANY(ARRAY(
    SELECT run.name
    FROM taken
    CROSS JOIN LATERAL (
        SELECT name FROM queue.runs WHERE name >= taken.first_run ORDER BY name LIMIT taken.size
    ) AS run))
RETURNING name AS run
