-- Give the first waiting runs of lanes to sessions, one run per slot: each leaves `ready` and gets a lease. A row of
-- `ready` is a span of runs (see tables.py): it goes, or begins later if only some of its runs are taken.
-- `queues`, `shapes`: the lanes. `lanes` (a lane's number, from 1), `agents`, `sessions`, `slots`,
-- `gpu_ids` (joined by commas): what goes where, parallel arrays. `priorities`, first one first, and
-- `floors`, as many for each lane: sequence numbers below them are not looked at, see core.low_water.
-- Runs that somebody else holds are passed over, so a claim never waits for one. A lane that had too few for that
-- reason, perhaps, comes back as a choice with its number below zero: what is held may soon wait again.
-- A session that was superseded, drains or has been silent gets nothing, nor does one whose agent already
-- holds one of the GPUs; the share lock keeps a new session from slipping in between. Such a choice comes
-- back without a run.
WITH choice AS MATERIALIZED (
    SELECT *
    FROM unnest(
        CAST(:lanes AS integer[]), CAST(:agents AS text[]), CAST(:sessions AS uuid[]),
        CAST(:slots AS integer[]), CAST(:gpu_ids AS text[])
    ) WITH ORDINALITY AS choice (lane, agent, session, slots, gpu_ids, choice)
), holder AS MATERIALIZED (
    SELECT choice.*
    FROM choice
    JOIN queue.agents ON agents.name = choice.agent AND agents.session = choice.session
    JOIN queue.sessions ON sessions.id = choice.session
    WHERE {reachable}
      AND NOT agents.draining
      AND (choice.gpu_ids = '' OR NOT EXISTS (
          SELECT FROM queue.leases
          WHERE leases.agent = choice.agent
            AND leases.gpu_ids && string_to_array(choice.gpu_ids, ',')))
    FOR SHARE OF agents SKIP LOCKED
), place AS (
    SELECT holder.lane, count(*) AS most, array_agg(holder.choice) AS choices,
           array_agg(holder.agent) AS agents, array_agg(holder.session) AS sessions,
           array_agg(holder.gpu_ids) AS gpu_ids
    FROM (SELECT * FROM holder ORDER BY lane, choice) AS holder
    CROSS JOIN LATERAL generate_series(1, holder.slots)
    GROUP BY holder.lane
), lane AS MATERIALIZED (
    SELECT place.*, given.queue, given.shape, queues.lost_after
    FROM unnest(CAST(:queues AS text[]), CAST(:shapes AS smallint[]))
        WITH ORDINALITY AS given (queue, shape, lane)
    JOIN place USING (lane)
    JOIN queue.queues ON queues.name = given.queue AND NOT queues.paused
), head AS MATERIALIZED (
    SELECT lane.lane, head.*
    FROM lane
    CROSS JOIN LATERAL (
        SELECT level.priority, waiting.*
        FROM unnest(CAST(:priorities AS smallint[])) WITH ORDINALITY AS level (priority, number)
        CROSS JOIN LATERAL (
            SELECT span.at, span.size, span.epoch, span.attempt, run.*
            FROM (
                SELECT ready.ctid AS at, ready.first_run, ready.size, ready.epoch, ready.number AS attempt
                FROM queue.ready
                WHERE ready.queue = lane.queue AND ready.shape = lane.shape
                  AND ready.priority = level.priority
                  AND ready.seq >= (CAST(:floors AS bigint[]))
                      [(lane.lane - 1) * cardinality(CAST(:priorities AS smallint[])) + level.number]
                ORDER BY ready.seq
                LIMIT lane.most
                FOR UPDATE SKIP LOCKED
            ) AS span
            CROSS JOIN LATERAL (
                SELECT runs.name AS run, runs.seq, runs.launch_spec, runs.own_spec
                FROM queue.runs
                WHERE runs.name >= span.first_run
                ORDER BY runs.name
                LIMIT span.size
            ) AS run
        ) AS waiting
        -- Spans are locked one by one until there are as many runs, so no more than are needed.
        LIMIT lane.most
    ) AS head
), span AS MATERIALIZED (
    SELECT at, size, count(*) AS taken, max(run) AS last_run FROM head GROUP BY at, size
), taken AS (
    SELECT lane, array_agg(run) AS runs, array_agg(epoch) AS epochs, array_agg(attempt) AS attempts,
           array_agg(priority) AS priorities, array_agg(seq) AS seqs,
           array_agg(launch_spec) AS launch_specs, array_agg(own_spec) AS own_specs
    FROM (SELECT * FROM head ORDER BY lane, priority, seq) AS head
    GROUP BY lane
), granted AS MATERIALIZED (
    SELECT lane.lane, lane.queue, lane.lost_after, pair.*
    FROM lane
    JOIN taken USING (lane)
    -- The first run to the first place: in step, where a join would compare each with each.
    CROSS JOIN LATERAL unnest(
        taken.runs, taken.epochs, taken.attempts, taken.priorities, taken.seqs, taken.launch_specs,
        taken.own_specs, lane.choices, lane.agents, lane.sessions, lane.gpu_ids
    ) AS pair (
        run, epoch, attempt, priority, seq, launch_spec, own_spec, choice, agent, session, gpu_ids
    )
    WHERE pair.run IS NOT NULL
), unqueued AS (
    DELETE FROM queue.ready WHERE ctid = ANY(ARRAY(SELECT at FROM span))
    RETURNING ctid AS at, *
), left_over AS (
    -- A new row, not a new version of that one: who waited for it in vain has seen neither, and takes nothing twice.
    INSERT INTO queue.ready (
        queue, shape, priority, seq, first_run, size, epoch, number, detail, ready_time, expire_time
    )
    SELECT queue, shape, priority, seq + span.taken,
           (SELECT name FROM queue.runs WHERE name > span.last_run ORDER BY name LIMIT 1),
           unqueued.size - span.taken, epoch, number, detail, ready_time, expire_time
    FROM (SELECT * FROM span WHERE taken < size) AS span
    JOIN unqueued USING (at)
), leased AS (
    INSERT INTO queue.leases
        (run, epoch, number, session, agent, queue, gpu_ids, lost_after, state, detail)
    SELECT run, epoch, attempt, session, agent, queue, string_to_array(gpu_ids, ','), lost_after,
           CAST(:state AS smallint), 'Handed to ' || agent
    FROM granted
)
SELECT choice, run, epoch, attempt, priority, seq,
       CAST(extract(epoch FROM lost_after) AS float8) AS lost_after_s, launch_spec, own_spec
FROM granted
UNION ALL
SELECT choice.choice, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM choice
WHERE choice.choice NOT IN (SELECT holder.choice FROM holder)
UNION ALL
SELECT -lane.lane, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM lane
WHERE (SELECT count(*) FROM head WHERE head.lane = lane.lane) < lane.most
  AND EXISTS (
      SELECT
      FROM unnest(CAST(:priorities AS smallint[])) WITH ORDINALITY AS level (priority, number)
      CROSS JOIN LATERAL (
          SELECT
          FROM queue.ready
          WHERE ready.queue = lane.queue AND ready.shape = lane.shape
            AND ready.priority = level.priority
            AND ready.seq >= (CAST(:floors AS bigint[]))
                [(lane.lane - 1) * cardinality(CAST(:priorities AS smallint[])) + level.number]
            AND ready.ctid <> ALL(ARRAY(SELECT at FROM span))
          LIMIT 1
      ) AS held)
ORDER BY priority, seq
