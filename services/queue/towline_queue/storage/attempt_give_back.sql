-- End attempts that never began: their runs wait again, at the place they had, or are cancelled where
-- that was asked for. `runs`, `epochs`, `details` are parallel arrays.
-- `unanswered`: only leases that no agent has taken.
WITH current AS MATERIALIZED (
    SELECT said.*, runs.queue, runs.shape, runs.priority, runs.seq, runs.max_wait, runs.cancel_requested,
           CASE WHEN runs.cancel_requested THEN CAST(:cancelled AS smallint)
                ELSE CAST(:target AS smallint) END AS state
    FROM unnest(CAST(:runs AS text[]), CAST(:epochs AS bigint[]), CAST(:details AS text[]))
        AS said (run, epoch, detail)
    JOIN queue.runs ON runs.name = said.run AND runs.epoch = said.epoch
    JOIN queue.leases ON leases.run = runs.name AND leases.epoch = runs.epoch
    WHERE runs.state = ANY(CAST(:sources AS smallint[]))
      AND NOT (:unanswered AND leases.accepted)
    ORDER BY runs.name
    FOR NO KEY UPDATE OF runs
), moved AS (
    UPDATE queue.runs
    SET state = current.state,
        state_detail = CASE WHEN current.cancel_requested THEN '' ELSE current.detail END,
        failure = CASE WHEN current.cancel_requested THEN CAST(:cancel_failure AS bytea) END,
        end_time = CASE WHEN current.cancel_requested THEN now() END
    FROM current
    WHERE runs.name = current.run
), waiting AS (
    INSERT INTO queue.ready (queue, shape, priority, seq, run, expire_time)
    SELECT queue, shape, priority, seq, run, now() + max_wait FROM current WHERE NOT cancel_requested
), ended AS (
    UPDATE queue.attempts
    SET outcome = :outcome, end_time = now()
    FROM current
    WHERE attempts.run = current.run AND attempts.epoch = current.epoch
), freed AS (
    DELETE FROM queue.leases USING current
    WHERE leases.run = current.run AND leases.epoch = current.epoch
)
SELECT run, epoch, queue, state FROM current
