-- The names of the newest runs before `before`, newest first, up to `most`: those of `queues`, or of
-- `job_versions`; one of the two is empty. Indexes lead to the first run of each span (see tables.py), from
-- which the primary key leads to the others. Compared as pairs, a queue and a name: equal to a queue, all
-- runs before a name could be read by the primary key too, and are where the planner takes queues for alike.
WITH head AS (
    SELECT head.*
    FROM unnest(CAST(:queues AS text[])) AS wanted(queue)
    CROSS JOIN LATERAL (
        SELECT name, span_size, span_end
        FROM queue.runs
        WHERE (runs.queue, runs.name) < (wanted.queue, :before) AND runs.queue >= wanted.queue
          AND runs.span_size > 0
        ORDER BY runs.queue DESC, runs.name DESC
        LIMIT :most
    ) AS head
    UNION ALL
    SELECT head.*
    FROM unnest(CAST(:job_versions AS text[])) AS wanted(job_version)
    CROSS JOIN LATERAL (
        SELECT name, span_size, span_end
        FROM queue.runs
        WHERE (runs.job_version, runs.name) < (wanted.job_version, :before)
          AND runs.job_version >= wanted.job_version AND runs.span_size > 0
        ORDER BY runs.job_version DESC, runs.name DESC
        LIMIT :most
    ) AS head
), span AS MATERIALIZED (
    SELECT name, coalesce(span_end, name) AS last,
           -- How many newer runs are in other spans for certain: of the newest one, some may not be before.
           sum(span_size) OVER (ORDER BY name DESC) - span_size
               - first_value(span_size) OVER (ORDER BY name DESC) AS newer
    FROM (SELECT * FROM head ORDER BY name DESC LIMIT :most) AS head
)
SELECT run.name
FROM span
CROSS JOIN LATERAL (
    SELECT runs.name
    FROM queue.runs
    WHERE runs.name >= span.name AND runs.name <= span.last AND runs.name < :before
      AND (runs.queue = ANY(CAST(:queues AS text[])) OR runs.job_version = ANY(CAST(:job_versions AS text[])))
    ORDER BY runs.name DESC
    LIMIT :most
) AS run
WHERE span.newer < :most
ORDER BY run.name DESC
LIMIT :most
