-- Mark leases as taken by their agents; `runs` and `epochs` are parallel arrays.
-- The run is locked first, as everywhere, so that this and giving back take turns.
WITH current AS MATERIALIZED (
    SELECT said.*
    FROM unnest(CAST(:runs AS text[]), CAST(:epochs AS bigint[])) AS said (run, epoch)
    JOIN queue.runs ON runs.name = said.run AND runs.epoch = said.epoch
    WHERE runs.state = ANY(CAST(:active AS smallint[]))
    ORDER BY runs.name
    FOR NO KEY UPDATE OF runs
)
UPDATE queue.leases
SET accepted = true
FROM current
WHERE leases.run = current.run
RETURNING leases.run, leases.epoch
