-- Give runs that this transaction has locked to sessions: a new epoch, a lease, an attempt.
-- `runs`, `sessions`, `gpu_ids` (joined by commas) are parallel arrays; `holders` are the sessions, each
-- once, `agents` their agents.
-- A session that was superseded, drains or has been silent gets nothing, nor does one whose agent
-- already holds one of the GPUs; the share lock keeps a new session from slipping in between.
WITH holder AS MATERIALIZED (
    SELECT agents.name AS agent, sessions.id AS session
    FROM queue.agents
    JOIN queue.sessions ON sessions.id = agents.session
    WHERE agents.name = ANY(CAST(:agents AS text[]))
      AND sessions.id = ANY(CAST(:holders AS uuid[]))
      AND NOT agents.draining
      AND {reachable}
    FOR SHARE OF agents SKIP LOCKED
), taken AS (
    UPDATE queue.runs
    SET state = :target, epoch = runs.epoch + 1, state_detail = 'Handed to ' || holder.agent
    FROM unnest(CAST(:runs AS text[]), CAST(:sessions AS uuid[]), CAST(:gpu_ids AS text[]))
        AS choice (run, session, gpu_ids)
    JOIN holder USING (session), queue.queues
    WHERE runs.name = choice.run
      AND queues.name = runs.queue
      AND runs.state = ANY(CAST(:sources AS smallint[]))
      AND (choice.gpu_ids = '' OR NOT EXISTS (
          SELECT FROM queue.leases
          WHERE leases.agent = holder.agent
            AND leases.gpu_ids && string_to_array(choice.gpu_ids, ',')))
    RETURNING runs.name AS run, runs.epoch, runs.queue, runs.spec, holder.agent, choice.session,
              string_to_array(choice.gpu_ids, ',') AS gpu_ids, queues.lost_after
), leased AS (
    INSERT INTO queue.leases (run, epoch, session, agent, queue, gpu_ids, lost_after)
    SELECT run, epoch, session, agent, queue, gpu_ids, lost_after FROM taken
), attempted AS (
    INSERT INTO queue.attempts (run, epoch, agent, gpu_ids)
    SELECT run, epoch, agent, gpu_ids FROM taken
), unqueued AS (
    DELETE FROM queue.ready USING taken WHERE ready.run = taken.run
)
SELECT taken.run, taken.epoch, taken.session, taken.spec, taken.gpu_ids, taken.lost_after,
       (SELECT count(*) FROM queue.attempts
        WHERE attempts.run = taken.run AND attempts.outcome <> :released) + 1 AS number
FROM taken
