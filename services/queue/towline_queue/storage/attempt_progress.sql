-- Move runs forward; parallel arrays, one entry per attempt. A state is never taken back, an event that
-- came before changes nothing. `seqs` 0: from an inventory, which tells the state and no more.
WITH said AS (
    SELECT * FROM unnest(
        CAST(:runs AS text[]), CAST(:epochs AS bigint[]), CAST(:seqs AS bigint[]), CAST(:states AS smallint[]),
        CAST(:details AS text[]), CAST(:outcomes AS smallint[]), CAST(:images AS text[]),
        CAST(:prepared AS boolean[]), CAST(:started AS boolean[])
    ) AS said (run, epoch, seq, state, detail, outcome, image, prepared, started)
), current AS MATERIALIZED (
    SELECT runs.name AS run, runs.epoch
    FROM queue.runs
    JOIN said ON runs.name = said.run AND runs.epoch = said.epoch
    WHERE runs.state = ANY(CAST(:active AS smallint[]))
    ORDER BY runs.name
    FOR NO KEY UPDATE OF runs
), news AS (
    UPDATE queue.attempts
    SET event_seq = greatest(attempts.event_seq, said.seq),
        prepare_time = CASE WHEN said.prepared THEN coalesce(attempts.prepare_time, now())
                            ELSE attempts.prepare_time END,
        start_time = CASE WHEN said.started THEN coalesce(attempts.start_time, now())
                          ELSE attempts.start_time END,
        image_outcome = coalesce(nullif(said.outcome, 0), attempts.image_outcome),
        image_id = coalesce(nullif(said.image, ''), attempts.image_id)
    FROM current JOIN said USING (run, epoch)
    WHERE attempts.run = current.run AND attempts.epoch = current.epoch
      AND (said.seq = 0 OR attempts.event_seq < said.seq)
    RETURNING attempts.run, said.seq, said.state, said.detail
), moved AS (
    UPDATE queue.runs
    SET state = greatest(runs.state, news.state),
        state_detail = CASE WHEN news.seq = 0 THEN runs.state_detail ELSE news.detail END
    FROM news
    WHERE runs.name = news.run
)
SELECT run, epoch FROM current
