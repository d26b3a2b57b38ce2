-- Store runs in the order given, and make them wait: one statement, so one round trip for any number.
-- Sequence numbers follow the order given, for the select that feeds the insert is sorted.
WITH given AS (
    SELECT *
    FROM unnest(
        CAST(:names AS text[]), CAST(:queues AS text[]), CAST(:priorities AS smallint[]),
        CAST(:shapes AS smallint[]), CAST(:states AS smallint[]), CAST(:job_versions AS text[]),
        CAST(:display_names AS text[]), CAST(:authors AS text[]), CAST(:labels AS text[]),
        CAST(:variables AS text[]), CAST(:specs AS bytea[]), CAST(:queue_specs AS bytea[]),
        CAST(:retries_of AS text[]), CAST(:due_times AS timestamptz[]),
        CAST(:max_waits AS interval[]), CAST(:retry_policies AS bytea[])
    ) WITH ORDINALITY AS given(
        name, queue, priority, shape, state, job_version, display_name, author, labels,
        variables, spec, queue_spec, retry_of, due_time, max_wait, retry_policy, position
    )
), made AS (
    INSERT INTO queue.runs (
        name, queue, priority, shape, state, job_version, display_name, author, labels,
        variables, spec, queue_spec, retry_of, max_wait, retry_policy
    )
    SELECT
        name, queue, priority, shape, state, job_version, display_name, author, CAST(labels AS jsonb),
        CAST(variables AS jsonb), spec, queue_spec, retry_of, max_wait, retry_policy
    FROM given
    ORDER BY position
    RETURNING name, queue, shape, priority, seq, state, create_time, max_wait
), made_ready AS (
    INSERT INTO queue.ready (queue, shape, priority, seq, run, expire_time)
    SELECT queue, shape, priority, seq, name, create_time + max_wait FROM made WHERE state = :queued
), made_scheduled AS (
    INSERT INTO queue.scheduled (run, due_time)
    SELECT name, due_time FROM given WHERE state = :scheduled
)
SELECT seq, create_time FROM made ORDER BY seq
