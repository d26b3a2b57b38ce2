-- Let scheduled runs that are due wait for an agent; a retry keeps the reason why it is one. A run that a
-- cancel holds is passed over.
WITH due AS MATERIALIZED (
    SELECT ctid AS at
    FROM queue.scheduled
    WHERE due_time <= now()
    ORDER BY due_time
    LIMIT :most
    FOR UPDATE SKIP LOCKED
), taken AS (
    DELETE FROM queue.scheduled WHERE ctid = ANY(ARRAY(SELECT at FROM due))
    RETURNING run, epoch, number, detail
)
INSERT INTO queue.ready (queue, shape, priority, seq, first_run, epoch, number, detail, expire_time)
SELECT runs.queue, runs.shape, runs.priority, runs.seq, runs.name, taken.epoch, taken.number, taken.detail,
       now() + (SELECT max_wait FROM queue.launch_specs WHERE digest = runs.launch_spec)
FROM taken
CROSS JOIN LATERAL (SELECT * FROM queue.runs WHERE runs.name = taken.run LIMIT 1) AS runs
RETURNING first_run AS run, queue
