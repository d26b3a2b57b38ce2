-- The leases of sessions; the spec comes with those that are to be stopped, for their grace.
SELECT leases.session, leases.run, leases.epoch, leases.stop_requested,
       CASE WHEN leases.stop_requested IS NOT NULL THEN (
           SELECT launch_specs.spec || runs.own_spec
           FROM queue.runs
           JOIN queue.launch_specs ON launch_specs.digest = runs.launch_spec
           WHERE runs.name = leases.run
       ) END AS spec
FROM queue.leases
WHERE leases.agent = ANY(CAST(:agents AS text[])) AND leases.session = ANY(CAST(:sessions AS uuid[]))
