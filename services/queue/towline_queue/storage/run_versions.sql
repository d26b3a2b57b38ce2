-- The versions of a job that have runs, from `first` up to `end`, found by one step in the index for each.
WITH RECURSIVE version AS (
    (SELECT job_version FROM queue.runs
     WHERE job_version >= :first AND job_version < :end AND span_size > 0
     ORDER BY job_version LIMIT 1)
    UNION ALL
    SELECT (SELECT runs.job_version FROM queue.runs
            WHERE runs.job_version > version.job_version AND runs.job_version < :end AND runs.span_size > 0
            ORDER BY runs.job_version LIMIT 1)
    FROM version
    WHERE version.job_version IS NOT NULL
)
SELECT job_version FROM version WHERE job_version IS NOT NULL
