-- Lock sessions with leases that have expired, and return these. The lock holds a renewal back until the
-- leases are gone. `healthy_for`: only leases that could have been renewed for as long as they hold.
SELECT leases.run, leases.epoch, leases.agent, leases.session, leases.lost_after
FROM queue.sessions
JOIN queue.leases ON leases.agent = sessions.agent AND leases.session = sessions.id
WHERE sessions.seen_time + leases.lost_after < now()
  AND leases.lost_after <= CAST(:healthy_for AS interval)
LIMIT :most
FOR UPDATE OF sessions SKIP LOCKED
