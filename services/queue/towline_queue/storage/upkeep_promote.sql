-- Let scheduled runs that are due wait for an agent.
WITH due AS MATERIALIZED (
    SELECT runs.name AS run, runs.queue, runs.shape, runs.priority, runs.seq
    FROM queue.scheduled
    JOIN queue.runs ON runs.name = scheduled.run
    WHERE scheduled.due_time <= now() AND runs.state = ANY(CAST(:sources AS smallint[]))
    ORDER BY scheduled.due_time
    LIMIT :most
    FOR UPDATE OF scheduled, runs SKIP LOCKED
), moved AS (
    UPDATE queue.runs SET state = :target, state_detail = '' FROM due WHERE runs.name = due.run
), waiting AS (
    INSERT INTO queue.ready (queue, shape, priority, seq, run)
    SELECT queue, shape, priority, seq, run FROM due
), unscheduled AS (
    DELETE FROM queue.scheduled USING due WHERE scheduled.run = due.run
)
SELECT run, queue FROM due
