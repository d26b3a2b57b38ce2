-- Fail runs that have waited for an agent longer than they may. Those that a dispatcher or a cancel holds
-- are passed over, so that a run that is being claimed is not failed.
WITH due AS MATERIALIZED (
    SELECT ctid AS at
    FROM queue.ready
    WHERE expire_time <= now()
    ORDER BY expire_time
    LIMIT :most
    FOR UPDATE SKIP LOCKED
), taken AS (
    DELETE FROM queue.ready WHERE ctid = ANY(ARRAY(SELECT at FROM due))
    RETURNING run
)
UPDATE queue.runs
SET state = CAST(:target AS smallint), failure = CAST(:failure AS bytea), end_time = now()
WHERE name = ANY(ARRAY(SELECT run FROM taken))
RETURNING name AS run
