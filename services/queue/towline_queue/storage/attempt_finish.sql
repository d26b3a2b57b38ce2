-- End attempts and settle their runs: run, attempt and lease in one go; parallel arrays, one entry each.
-- `states` is where the run goes: it has ended, waits at the place it had (`queued`), or waits for the
-- time of its `delays` (`scheduled`). `run_failures` is the run's, null while it goes on.
WITH current AS MATERIALIZED (
    SELECT said.*, runs.queue, runs.shape, runs.priority, runs.seq, runs.max_wait,
           said.state NOT IN (:queued, :scheduled) AS over
    FROM unnest(
        CAST(:runs AS text[]), CAST(:epochs AS bigint[]), CAST(:finish_ids AS uuid[]),
        CAST(:outcomes AS smallint[]), CAST(:exit_codes AS integer[]), CAST(:failures AS bytea[]),
        CAST(:causes AS smallint[]), CAST(:outputs AS text[]),
        CAST(:states AS smallint[]), CAST(:details AS text[]), CAST(:run_failures AS bytea[]),
        CAST(:delays AS interval[])
    ) AS said (
        run, epoch, finish_id, outcome, exit_code, failure, cause, outputs, state, detail, run_failure, delay
    )
    JOIN queue.runs ON runs.name = said.run AND runs.epoch = said.epoch
    WHERE runs.state = ANY(CAST(:sources AS smallint[]))
    ORDER BY runs.name
    FOR NO KEY UPDATE OF runs
), moved AS (
    UPDATE queue.runs
    SET state = current.state, state_detail = current.detail, failure = current.run_failure,
        outputs = CASE WHEN current.over THEN current.outputs ELSE runs.outputs END,
        end_time = CASE WHEN current.over THEN now() END
    FROM current
    WHERE runs.name = current.run
), waiting AS (
    INSERT INTO queue.ready (queue, shape, priority, seq, run, expire_time)
    SELECT queue, shape, priority, seq, run, now() + max_wait FROM current WHERE state = :queued
), later AS (
    INSERT INTO queue.scheduled (run, due_time)
    SELECT run, now() + delay FROM current WHERE state = :scheduled
), ended AS (
    UPDATE queue.attempts
    SET outcome = current.outcome, finish_id = current.finish_id, exit_code = current.exit_code,
        failure = current.failure, cause = current.cause, outputs = current.outputs, end_time = now()
    FROM current
    WHERE attempts.run = current.run AND attempts.epoch = current.epoch
), freed AS (
    DELETE FROM queue.leases USING current
    WHERE leases.run = current.run AND leases.epoch = current.epoch
)
SELECT run, epoch, queue, state FROM current
