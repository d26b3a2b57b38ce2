-- What agents tell of attempts that go on; parallel arrays, one entry per attempt. An array in which
-- nothing would be told may be null, or shorter: what it lacks at its end is null.
-- `accepted`: the agent takes the lease. `seqs`: null: it tells no more than that; 0: from an inventory,
-- which tells the state and no more; an event that came before changes nothing.
-- Of two states the later one holds, so that none is taken back (core.transitions.PROGRESS).
-- Leases are looked up and written one by one, by their key: what the planner knows of a table that is
-- filled and emptied all the time is always wrong.
WITH current AS MATERIALIZED (
    SELECT said.accepted AS takes, said.seq, said.state AS told, said.detail AS doing, said.outcome,
           said.content, said.facts, said.prepared, said.started, said.position,
           -- One by one: a column that a newer version adds must not have the name of one of those above.
           lease.run, lease.epoch, lease.number, lease.session, lease.agent, lease.queue, lease.gpu_ids,
           lease.lost_after, lease.grant_time, lease.stop_requested, lease.accepted, lease.event_seq,
           lease.state, lease.detail, lease.prepare_time, lease.start_time, lease.image_outcome,
           lease.image_id, lease.image_time, lease.image_facts,
           said.seq = 0 OR said.seq > lease.event_seq AS is_news
    FROM (
        SELECT *
        FROM unnest(
            CAST(:runs AS text[]), CAST(:epochs AS bigint[]), CAST(:accepted AS boolean[]),
            CAST(:seqs AS bigint[]), CAST(:states AS smallint[]), CAST(:details AS text[]),
            CAST(:outcomes AS smallint[]), CAST(:contents AS text[]), CAST(:facts AS bytea[]),
            CAST(:prepared AS boolean[]), CAST(:started AS boolean[])
        ) WITH ORDINALITY AS said (
            run, epoch, accepted, seq, state, detail, outcome, content, facts, prepared, started, position
        )
        ORDER BY run COLLATE "C"
    ) AS said
    CROSS JOIN LATERAL (
        SELECT * FROM queue.leases
        WHERE leases.run = said.run AND leases.epoch = said.epoch
        FOR NO KEY UPDATE
    ) AS lease
), told AS (
    -- No row is new: those that are there are locked.
    INSERT INTO queue.leases (
        run, epoch, number, session, agent, queue, gpu_ids, lost_after, grant_time, stop_requested,
        accepted, event_seq, state, detail, prepare_time, start_time, image_outcome, image_id,
        image_time, image_facts
    )
    SELECT run, epoch, number, session, agent, queue, gpu_ids, lost_after, grant_time, stop_requested,
           accepted OR takes,
           greatest(event_seq, seq),
           CASE WHEN is_news THEN greatest(state, told) ELSE state END,
           CASE WHEN seq > event_seq THEN coalesce(doing, '') ELSE detail END,
           CASE WHEN is_news AND prepared THEN coalesce(prepare_time, now()) ELSE prepare_time END,
           CASE WHEN is_news AND started THEN coalesce(start_time, now()) ELSE start_time END,
           CASE WHEN seq > event_seq THEN coalesce(nullif(outcome, 0), image_outcome) ELSE image_outcome END,
           CASE WHEN seq > event_seq THEN coalesce(nullif(content, ''), image_id) ELSE image_id END,
           CASE WHEN seq > event_seq AND outcome > 0 THEN coalesce(image_time, now()) ELSE image_time END,
           CASE WHEN seq > event_seq THEN coalesce(facts, image_facts) ELSE image_facts END
    FROM current
    ON CONFLICT (run) DO UPDATE
    SET accepted = excluded.accepted, event_seq = excluded.event_seq, state = excluded.state,
        detail = excluded.detail, prepare_time = excluded.prepare_time, start_time = excluded.start_time,
        image_outcome = excluded.image_outcome, image_id = excluded.image_id,
        image_time = excluded.image_time, image_facts = excluded.image_facts
)
SELECT array_agg(position) AS positions FROM current
