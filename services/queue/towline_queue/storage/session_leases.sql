-- The leases of sessions; the spec comes with those that are to be stopped, for their grace.
SELECT leases.session, leases.run, leases.epoch, runs.cancel_requested, runs.preempt_epoch,
       CASE WHEN runs.cancel_requested OR runs.preempt_epoch = leases.epoch THEN runs.spec END AS spec
FROM queue.leases
JOIN queue.runs ON runs.name = leases.run
WHERE leases.agent = ANY(CAST(:agents AS text[])) AND leases.session = ANY(CAST(:sessions AS uuid[]))
