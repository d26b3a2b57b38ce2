-- The versions of a job that have runs, from `first` up to `end`, found by one step in the index for each;
-- and the last of the `most` newest runs of them all before `before`, null where there are fewer.
WITH RECURSIVE version AS (
    (SELECT job_version FROM queue.runs
     WHERE job_version >= :first AND job_version < :end
     ORDER BY job_version LIMIT 1)
    UNION ALL
    SELECT (SELECT runs.job_version FROM queue.runs
            WHERE runs.job_version > version.job_version AND runs.job_version < :end
            ORDER BY runs.job_version LIMIT 1)
    FROM version
    WHERE version.job_version IS NOT NULL
)
SELECT
    array(SELECT job_version FROM version WHERE job_version IS NOT NULL) AS versions,
    (SELECT newest.name
     FROM version
     CROSS JOIN LATERAL (
         SELECT runs.name FROM queue.runs
         WHERE runs.job_version = version.job_version AND runs.name < :before
         ORDER BY runs.name DESC
         LIMIT :most
     ) AS newest
     ORDER BY newest.name DESC
     OFFSET :most - 1 LIMIT 1) AS last
