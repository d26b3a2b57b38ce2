-- Leases that their agent, heard since, has neither taken nor refused in time. One that has been silent
-- may have taken them: its answer, or the end of its session, decides.
SELECT leases.run, leases.epoch, leases.agent
FROM queue.leases
JOIN queue.sessions ON sessions.id = leases.session
WHERE NOT leases.accepted AND sessions.seen_time > leases.grant_time + CAST(:reply_within AS interval)
ORDER BY leases.run
LIMIT :most
