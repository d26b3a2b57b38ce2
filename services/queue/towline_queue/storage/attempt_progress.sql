-- Move runs forward; parallel arrays, one entry per attempt. Only by the moves (`froms`, `tos`), so that
-- no state is taken back; an event that came before changes nothing. `seqs` 0: from an inventory, which
-- tells the state and no more.
WITH current AS MATERIALIZED (
    SELECT said.*
    FROM unnest(
        CAST(:runs AS text[]), CAST(:epochs AS bigint[]), CAST(:seqs AS bigint[]), CAST(:states AS smallint[]),
        CAST(:details AS text[]), CAST(:outcomes AS smallint[]), CAST(:images AS text[]),
        CAST(:prepared AS boolean[]), CAST(:started AS boolean[])
    ) AS said (run, epoch, seq, state, detail, outcome, image, prepared, started)
    JOIN queue.runs ON runs.name = said.run AND runs.epoch = said.epoch
    WHERE runs.state = ANY(CAST(:active AS smallint[]))
    ORDER BY runs.name
    FOR NO KEY UPDATE OF runs
), news AS (
    UPDATE queue.attempts
    SET event_seq = greatest(attempts.event_seq, current.seq),
        prepare_time = CASE WHEN current.prepared THEN coalesce(attempts.prepare_time, now())
                            ELSE attempts.prepare_time END,
        start_time = CASE WHEN current.started THEN coalesce(attempts.start_time, now())
                          ELSE attempts.start_time END,
        image_outcome = coalesce(nullif(current.outcome, 0), attempts.image_outcome),
        image_id = coalesce(nullif(current.image, ''), attempts.image_id)
    FROM current
    WHERE attempts.run = current.run AND attempts.epoch = current.epoch
      AND (current.seq = 0 OR attempts.event_seq < current.seq)
    RETURNING current.run, current.seq, current.state, current.detail
), moved AS (
    UPDATE queue.runs
    SET state = CASE WHEN (runs.state, news.state) IN (
                         SELECT * FROM unnest(CAST(:froms AS smallint[]), CAST(:tos AS smallint[])))
                     THEN news.state ELSE runs.state END,
        state_detail = CASE WHEN news.seq = 0 THEN runs.state_detail ELSE news.detail END
    FROM news
    WHERE runs.name = news.run
)
SELECT run, epoch FROM current
