-- Store the runs of some requests, in the order given, and make them wait; a request is stored whole or not at all.
-- Parallel arrays: `names` to `run_kinds`, of the runs; `requests` to `max_waits`, of the kinds, the request (1 for
-- the first) that their runs are of and what these have in common; `methods` to `responses`, of the requests, with
-- no id where one is not to be remembered; `digests` to `retry_policies`, of launch specs that may be new. No
-- request comes twice.
-- For many runs an array takes longer to send than all else. So `names` and `span_ends` (empty: none) are joined
-- by commas, arrays of numbers are texts, and `own_specs` are one text, in which each has its start and length.
-- `run_kinds` count from 1. `waiting_sizes` are of the spans that wait, 0 where a run is not the first of one; both
-- sorts of spans are told of in tables.py. Of these arrays, ends that say nothing may be missing.
-- A request whose queue is not there, or has another spec than the one it was checked by (`queue_revisions`; null:
-- any), is stale: nothing of it is stored. Nor is anything of one that is remembered: it was carried out before.
-- Answers with the requests that were stored and those that are stale.
WITH held AS MATERIALIZED (
    -- No queue goes, or gets another spec, before this is committed.
    SELECT name, revision, create_time
    FROM queue.queues
    WHERE name = ANY(CAST(:queues AS text[]))
    ORDER BY name
    FOR KEY SHARE
), kind AS MATERIALIZED (
    SELECT kind.number, kind.request, kind.queue, kind.priority, kind.shape, kind.job_version, kind.author,
           CAST(kind.labels AS jsonb) AS labels, CAST(kind.variables AS jsonb) AS variables, kind.launch_spec,
           kind.retry_of, kind.due_time, now() + kind.max_wait AS expire_time, held.name IS NULL AS stale
    FROM unnest(
        CAST(:requests AS integer[]), CAST(:queues AS text[]), CAST(:queue_revisions AS bigint[]),
        CAST(:queue_times AS timestamptz[]), CAST(:priorities AS smallint[]), CAST(:shapes AS smallint[]),
        CAST(:job_versions AS text[]), CAST(:authors AS text[]), CAST(:labels AS text[]),
        CAST(:variables AS text[]), CAST(:launch_specs AS bytea[]), CAST(:retries_of AS text[]),
        CAST(:due_times AS timestamptz[]), CAST(:max_waits AS interval[])
    ) WITH ORDINALITY AS kind(
        request, queue, queue_revision, queue_time, priority, shape, job_version, author, labels, variables,
        launch_spec, retry_of, due_time, max_wait, number
    )
    LEFT JOIN held ON held.name = kind.queue AND (
        kind.queue_revision IS NULL
        OR (held.revision = kind.queue_revision AND held.create_time = kind.queue_time)
    )
), request AS MATERIALIZED (
    SELECT request.*, request.number IN (SELECT kind.request FROM kind WHERE kind.stale) AS stale
    FROM unnest(
        CAST(:methods AS text[]), CAST(:request_ids AS uuid[]), CAST(:request_digests AS bytea[]),
        CAST(:responses AS bytea[])
    ) WITH ORDINALITY AS request(method, request_id, digest, response, number)
), remembered AS (
    -- In one order everywhere, for each waits here for others that remember the same request.
    INSERT INTO queue.requests (method, request_id, digest, response)
    SELECT method, request_id, digest, response
    FROM request
    WHERE request_id IS NOT NULL AND NOT stale
    ORDER BY method, request_id
    ON CONFLICT DO NOTHING
    RETURNING method, request_id
), stored AS MATERIALIZED (
    SELECT number FROM request JOIN remembered USING (method, request_id)
    UNION ALL
    SELECT number FROM request WHERE request_id IS NULL AND NOT stale
), shared AS (
    INSERT INTO queue.launch_specs (digest, spec, queue_spec, max_wait, retry_policy)
    SELECT *
    FROM unnest(
        CAST(:digests AS bytea[]), CAST(:specs AS bytea[]), CAST(:queue_specs AS bytea[]),
        CAST(:spec_max_waits AS interval[]), CAST(:retry_policies AS bytea[])
    ) AS shared(digest, spec, queue_spec, max_wait, retry_policy)
    ORDER BY digest
    ON CONFLICT DO NOTHING
), first AS MATERIALIZED (
    SELECT nextval('queue.runs_seq_seq') AS seq
), stored_kind AS MATERIALIZED (
    SELECT kind.* FROM kind WHERE kind.request IN (SELECT stored.number FROM stored)
), new AS MATERIALIZED (
    -- In the order of the runs: kinds are few, so they are what is hashed.
    SELECT run.name, substring(CAST(:own_specs AS bytea) FROM run.start + 1 FOR run.length) AS own_spec,
           coalesce(run.span_size, 0) AS span_size, run.span_end, run.waiting_size,
           (SELECT first.seq FROM first) + run.position - 1 AS seq, stored_kind.*
    FROM unnest(
        string_to_array(CAST(:names AS text), ','), string_to_array(CAST(:span_ends AS text), ',', ''),
        CAST(CAST(:span_sizes AS text) AS smallint[]), CAST(CAST(:starts AS text) AS integer[]),
        CAST(CAST(:lengths AS text) AS integer[]), CAST(CAST(:run_kinds AS text) AS integer[]),
        CAST(CAST(:waiting_sizes AS text) AS smallint[])
    ) WITH ORDINALITY AS run(name, span_end, span_size, start, length, kind, waiting_size, position)
    JOIN stored_kind ON stored_kind.number = coalesce(run.kind, 1)
), made AS (
    INSERT INTO queue.runs (
        name, seq, queue, priority, shape, job_version, author, labels, variables, launch_spec, own_spec, retry_of,
        span_size, span_end
    )
    OVERRIDING SYSTEM VALUE
    SELECT name, seq, queue, priority, shape, job_version, author, labels, variables, launch_spec, own_spec, retry_of,
           span_size, span_end
    FROM new
), made_ready AS (
    INSERT INTO queue.ready (queue, shape, priority, seq, first_run, size, epoch, number, expire_time)
    SELECT queue, shape, priority, seq, name, waiting_size, 1, 1, expire_time
    FROM new
    WHERE due_time IS NULL AND waiting_size > 0
), made_scheduled AS (
    INSERT INTO queue.scheduled (run, due_time, epoch, number)
    SELECT name, due_time, 1, 1 FROM new WHERE due_time IS NOT NULL
)
SELECT number, false AS stale FROM stored
UNION ALL
SELECT number, true FROM request WHERE stale
