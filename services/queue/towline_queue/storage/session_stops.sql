-- Those of the runs' leases that are to be stopped, with the spec, for its grace.
SELECT leases.session, leases.run, leases.epoch, leases.stop_requested,
       launch_specs.spec || runs.own_spec AS spec
FROM queue.leases
CROSS JOIN LATERAL (SELECT launch_spec, own_spec FROM queue.runs WHERE runs.name = leases.run LIMIT 1) AS runs
JOIN queue.launch_specs ON launch_specs.digest = runs.launch_spec
WHERE leases.run = ANY(CAST(:runs AS text[])) AND leases.stop_requested IS NOT NULL
