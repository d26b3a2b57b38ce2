-- Store one run that may start at once, of a kind that is known: all that insert_runs.sql does for one request with
-- one such run, in two thirds of its time. It waits, unless a session is named (`agent`, `session`) that may get it,
-- with these GPUs (`gpu_ids`, joined by commas) as claim.sql says, and none of its lane waits: then it gets a lease
-- at once. `priorities` and `floors` are those of claim.sql.
-- It waits for no lock that is held for long, for all that is handed out waits for it.
-- Answers with one row: whether the queue is there as it was when the run was checked, and nobody changes it now;
-- whether the run was stored (else the request is remembered, if the queue is fresh); and, if it was handed out,
-- the `lost_after` of its queue.
WITH held AS MATERIALIZED (
    SELECT lost_after, paused
    FROM queue.queues
    WHERE name = CAST(:queue AS text) AND revision = CAST(:queue_revision AS bigint)
      AND create_time = CAST(:queue_time AS timestamptz)
    FOR KEY SHARE SKIP LOCKED
), remembered AS (
    INSERT INTO queue.requests (method, request_id, digest, response)
    SELECT CAST(:method AS text), CAST(:request_id AS uuid), CAST(:request_digest AS bytea),
           CAST(:response AS bytea)
    FROM held
    ON CONFLICT DO NOTHING
    RETURNING method
), place AS MATERIALIZED (
    SELECT held.lost_after
    FROM held
    JOIN queue.agents ON agents.name = CAST(:agent AS text) AND agents.session = CAST(:session AS uuid)
    JOIN queue.sessions ON sessions.id = agents.session
    WHERE {reachable}
      AND NOT agents.draining
      AND NOT held.paused
      AND (CAST(:gpu_ids AS text) = '' OR NOT EXISTS (
          SELECT FROM queue.leases
          WHERE leases.agent = CAST(:agent AS text)
            AND leases.gpu_ids && string_to_array(CAST(:gpu_ids AS text), ',')))
      AND NOT EXISTS (
          SELECT
          FROM unnest(CAST(:priorities AS smallint[]), CAST(:floors AS bigint[])) AS level (priority, floor)
          CROSS JOIN LATERAL (
              SELECT
              FROM queue.ready
              WHERE ready.queue = CAST(:queue AS text) AND ready.shape = CAST(:shape AS smallint)
                AND ready.priority = level.priority AND ready.seq >= level.floor
              LIMIT 1
          ) AS waiting)
    FOR SHARE OF agents SKIP LOCKED
), made AS (
    INSERT INTO queue.runs (
        name, queue, priority, shape, job_version, author, labels, variables, launch_spec, own_spec
    )
    SELECT CAST(:name AS text), CAST(:queue AS text), CAST(:priority AS smallint), CAST(:shape AS smallint),
           CAST(:job_version AS text), CAST(:author AS text), CAST(CAST(:labels AS text) AS jsonb),
           CAST(CAST(:variables AS text) AS jsonb), CAST(:launch_spec AS bytea), CAST(:own_spec AS bytea)
    FROM remembered
    RETURNING name, queue, shape, priority, seq
), leased AS (
    INSERT INTO queue.leases (run, epoch, number, session, agent, queue, gpu_ids, lost_after, state, detail)
    SELECT made.name, 1, 1, CAST(:session AS uuid), CAST(:agent AS text), made.queue,
           string_to_array(CAST(:gpu_ids AS text), ','), place.lost_after, CAST(:state AS smallint), 'Handed to ' || CAST(:agent AS text)
    FROM made CROSS JOIN place
    RETURNING lost_after
), made_ready AS (
    INSERT INTO queue.ready (queue, shape, priority, seq, first_run, epoch, number, expire_time)
    SELECT queue, shape, priority, seq, name, 1, 1, now() + CAST(:max_wait AS interval)
    FROM made
    WHERE NOT EXISTS (SELECT FROM place)
)
SELECT EXISTS (SELECT FROM held) AS fresh, EXISTS (SELECT FROM remembered) AS stored,
       (SELECT CAST(extract(epoch FROM lost_after) AS float8) FROM leased) AS lost_after_s
