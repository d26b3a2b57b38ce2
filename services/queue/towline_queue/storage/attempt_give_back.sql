-- End attempts that never began: their runs wait again, at the place they had, or are cancelled where
-- that was asked for (`cancel`, of stop_requested). `runs`, `epochs`, `details` are parallel arrays.
-- `unanswered`: only leases that no agent has taken.
-- Rows are looked up one by one, whatever the statistics say: see attempt_progress.sql.
WITH current AS MATERIALIZED (
    SELECT said.detail, said.position, place.at AS run_at,
           lease.run, lease.epoch, lease.number, lease.queue, lease.agent, lease.gpu_ids, lease.grant_time,
           lease.prepare_time, lease.image_outcome, lease.image_id, lease.image_time, lease.image_facts,
           coalesce(lease.stop_requested = CAST(:cancel AS smallint), false) AS cancelled
    FROM (
        SELECT *
        FROM unnest(CAST(:runs AS text[]), CAST(:epochs AS bigint[]), CAST(:details AS text[]))
            WITH ORDINALITY AS said (run, epoch, detail, position)
        ORDER BY run COLLATE "C"
    ) AS said
    CROSS JOIN LATERAL (
        SELECT * FROM queue.leases
        WHERE leases.run = said.run AND leases.epoch = said.epoch
          AND leases.state = ANY(CAST(:sources AS smallint[]))
          AND NOT (CAST(:unanswered AS boolean) AND leases.accepted)
        FOR UPDATE
    ) AS lease
    -- A run's row does not move while it is leased.
    CROSS JOIN LATERAL (SELECT ctid AS at FROM queue.runs WHERE runs.name = said.run LIMIT 1) AS place
), freed AS (
    DELETE FROM queue.leases WHERE run = ANY(ARRAY(SELECT run FROM current))
), ended AS (
    INSERT INTO queue.attempts (
        run, epoch, agent, gpu_ids, lease_time, prepare_time, image_outcome, image_id, image_time,
        image_facts, outcome
    )
    SELECT run, epoch, agent, gpu_ids, grant_time, prepare_time, image_outcome, image_id, image_time,
           image_facts, CAST(:outcome AS smallint)
    FROM current
), over AS (
    UPDATE queue.runs
    SET state = CAST(:cancelled AS smallint), failure = CAST(:cancel_failure AS bytea), end_time = now()
    FROM current
    WHERE runs.ctid = current.run_at AND current.cancelled
), waiting AS (
    INSERT INTO queue.ready (queue, shape, priority, seq, first_run, epoch, number, detail, expire_time)
    SELECT runs.queue, runs.shape, runs.priority, runs.seq, runs.name, current.epoch + 1, current.number,
           current.detail,
           now() + (SELECT max_wait FROM queue.launch_specs WHERE digest = runs.launch_spec)
    FROM current
    JOIN queue.runs ON runs.ctid = current.run_at
    WHERE NOT current.cancelled
)
SELECT position, queue, cancelled FROM current
