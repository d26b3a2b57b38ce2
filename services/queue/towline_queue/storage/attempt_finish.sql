-- Commit results: run, attempt and lease in one go; parallel arrays, one entry per attempt.
WITH current AS MATERIALIZED (
    SELECT said.*
    FROM unnest(
        CAST(:runs AS text[]), CAST(:epochs AS bigint[]), CAST(:finish_ids AS uuid[]),
        CAST(:states AS smallint[]), CAST(:outcomes AS smallint[]), CAST(:exit_codes AS integer[]),
        CAST(:failures AS bytea[]), CAST(:outputs AS text[])
    ) AS said (run, epoch, finish_id, state, outcome, exit_code, failure, outputs)
    JOIN queue.runs ON runs.name = said.run AND runs.epoch = said.epoch
    WHERE runs.state = ANY(CAST(:sources AS smallint[]))
    ORDER BY runs.name
    FOR NO KEY UPDATE OF runs
), moved AS (
    UPDATE queue.runs
    SET state = current.state, state_detail = '', failure = current.failure, outputs = current.outputs,
        end_time = now()
    FROM current
    WHERE runs.name = current.run
), ended AS (
    UPDATE queue.attempts
    SET outcome = current.outcome, finish_id = current.finish_id, exit_code = current.exit_code,
        failure = current.failure, end_time = now()
    FROM current
    WHERE attempts.run = current.run AND attempts.epoch = current.epoch
), freed AS (
    DELETE FROM queue.leases USING current WHERE leases.run = current.run
)
SELECT run, epoch FROM current
