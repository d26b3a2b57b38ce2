-- Commit results: run, attempt and lease in one go; parallel arrays, one entry per attempt.
WITH said AS (
    SELECT * FROM unnest(
        CAST(:runs AS text[]), CAST(:epochs AS bigint[]), CAST(:finish_ids AS uuid[]),
        CAST(:states AS smallint[]), CAST(:outcomes AS smallint[]), CAST(:exit_codes AS integer[]),
        CAST(:failures AS bytea[]), CAST(:outputs AS text[])
    ) AS said (run, epoch, finish_id, state, outcome, exit_code, failure, outputs)
), current AS MATERIALIZED (
    SELECT runs.name AS run, runs.epoch
    FROM queue.runs
    JOIN said ON runs.name = said.run AND runs.epoch = said.epoch
    WHERE runs.state = ANY(CAST(:sources AS smallint[]))
    ORDER BY runs.name
    FOR NO KEY UPDATE OF runs
), moved AS (
    UPDATE queue.runs
    SET state = said.state, state_detail = '', failure = said.failure, outputs = said.outputs,
        end_time = now()
    FROM current JOIN said USING (run, epoch)
    WHERE runs.name = current.run
), ended AS (
    UPDATE queue.attempts
    SET outcome = said.outcome, finish_id = said.finish_id, exit_code = said.exit_code,
        failure = said.failure, end_time = now()
    FROM current JOIN said USING (run, epoch)
    WHERE attempts.run = current.run AND attempts.epoch = current.epoch
), freed AS (
    DELETE FROM queue.leases USING current WHERE leases.run = current.run
)
SELECT run, epoch FROM current
