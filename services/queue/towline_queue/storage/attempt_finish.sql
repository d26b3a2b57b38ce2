-- End attempts and settle their runs: lease, attempt and run in one go; parallel arrays, one entry each.
-- An array in which nothing would be told may be null.
-- `states` is where the run goes: it has ended, waits at the place it had (`queued`), or waits for the
-- time of its `delays` (`scheduled`). `run_failures` is the run's, null while it goes on.
-- Rows are looked up one by one, whatever the statistics say: see attempt_progress.sql.
WITH current AS MATERIALIZED (
    SELECT said.finish_id, said.outcome, said.exit_code, said.failure, coalesce(said.cause, 0) AS cause,
           coalesce(said.outputs, '') AS outputs, said.results, said.state, coalesce(said.detail, '') AS detail,
           said.run_failure, said.delay, said.position, place.at AS run_at,
           lease.run, lease.epoch, lease.number, lease.queue, lease.agent, lease.gpu_ids, lease.grant_time,
           lease.prepare_time, lease.start_time, lease.image_outcome, lease.image_id, lease.image_time,
           lease.image_facts
    FROM (
        SELECT *
        FROM unnest(
            CAST(:runs AS text[]), CAST(:epochs AS bigint[]), CAST(:finish_ids AS uuid[]),
            CAST(:outcomes AS smallint[]), CAST(:exit_codes AS integer[]), CAST(:failures AS bytea[]),
            CAST(:causes AS smallint[]), CAST(:outputs AS text[]), CAST(:results AS bytea[]),
            CAST(:states AS smallint[]), CAST(:details AS text[]), CAST(:run_failures AS bytea[]),
            CAST(:delays AS interval[])
        ) WITH ORDINALITY AS said (
            run, epoch, finish_id, outcome, exit_code, failure, cause, outputs, results,
            state, detail, run_failure, delay, position
        )
        ORDER BY run COLLATE "C"
    ) AS said
    CROSS JOIN LATERAL (
        SELECT * FROM queue.leases
        WHERE leases.run = said.run AND leases.epoch = said.epoch
        FOR UPDATE
    ) AS lease
    -- A run's row does not move while it is leased.
    CROSS JOIN LATERAL (SELECT ctid AS at FROM queue.runs WHERE runs.name = said.run LIMIT 1) AS place
), freed AS (
    DELETE FROM queue.leases WHERE run = ANY(ARRAY(SELECT run FROM current))
), ended AS (
    INSERT INTO queue.attempts (
        run, epoch, agent, gpu_ids, lease_time, prepare_time, start_time, end_time, image_outcome, image_id,
        image_time, image_facts, outcome, finish_id, exit_code, failure, cause, outputs
    )
    SELECT run, epoch, agent, gpu_ids, grant_time, prepare_time, start_time, now(), image_outcome, image_id,
           image_time, image_facts, outcome, finish_id, exit_code, failure, cause, outputs
    FROM current
), over AS (
    UPDATE queue.runs
    SET state = current.state, detail = nullif(current.detail, ''), failure = current.run_failure,
        outputs = current.outputs, results = current.results, end_time = now()
    FROM current
    WHERE runs.ctid = current.run_at
      AND current.state NOT IN (CAST(:queued AS smallint), CAST(:scheduled AS smallint))
), waiting AS (
    INSERT INTO queue.ready (queue, shape, priority, seq, first_run, epoch, number, detail, expire_time)
    SELECT runs.queue, runs.shape, runs.priority, runs.seq, runs.name, current.epoch + 1,
           current.number + 1, current.detail,
           now() + (SELECT max_wait FROM queue.launch_specs WHERE digest = runs.launch_spec)
    FROM current
    JOIN queue.runs ON runs.ctid = current.run_at
    WHERE current.state = CAST(:queued AS smallint)
), later AS (
    INSERT INTO queue.scheduled (run, due_time, epoch, number, detail)
    SELECT run, now() + delay, epoch + 1, number + 1, detail
    FROM current
    WHERE state = CAST(:scheduled AS smallint)
)
SELECT array_agg(position) AS positions, array_agg(queue) AS queues FROM current
