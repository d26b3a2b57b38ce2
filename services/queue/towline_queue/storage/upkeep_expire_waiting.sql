-- Fail runs that have waited for an agent longer than they may. Both rows are locked, and those that a
-- dispatcher or a cancel holds passed over, so that a run that is being claimed is not failed.
WITH due AS MATERIALIZED (
    SELECT ready.run
    FROM queue.ready
    JOIN queue.runs ON runs.name = ready.run
    WHERE ready.expire_time <= now() AND runs.state = ANY(CAST(:sources AS smallint[]))
    ORDER BY ready.expire_time
    LIMIT :most
    FOR UPDATE OF ready, runs SKIP LOCKED
), moved AS (
    UPDATE queue.runs
    SET state = :target, state_detail = '', failure = CAST(:failure AS bytea), end_time = now()
    FROM due
    WHERE runs.name = due.run
), unqueued AS (
    DELETE FROM queue.ready USING due WHERE ready.run = due.run
)
SELECT run FROM due
