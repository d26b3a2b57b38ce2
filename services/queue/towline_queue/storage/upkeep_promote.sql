-- Let scheduled runs that are due wait for an agent; a retry keeps the reason why it is one.
WITH due AS MATERIALIZED (
    SELECT runs.name AS run, runs.queue, runs.shape, runs.priority, runs.seq, runs.max_wait
    FROM queue.scheduled
    JOIN queue.runs ON runs.name = scheduled.run
    WHERE scheduled.due_time <= now() AND runs.state = ANY(CAST(:sources AS smallint[]))
    ORDER BY scheduled.due_time
    LIMIT :most
    FOR UPDATE OF scheduled, runs SKIP LOCKED
), moved AS (
    UPDATE queue.runs SET state = :target FROM due WHERE runs.name = due.run
), waiting AS (
    INSERT INTO queue.ready (queue, shape, priority, seq, run, expire_time)
    SELECT queue, shape, priority, seq, run, now() + max_wait FROM due
), unscheduled AS (
    DELETE FROM queue.scheduled USING due WHERE scheduled.run = due.run
)
SELECT run, queue FROM due
