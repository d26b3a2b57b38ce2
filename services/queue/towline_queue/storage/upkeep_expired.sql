-- Lock sessions that have expired and return their leases. The lock holds a renewal back until the
-- leases are gone. `healthy_for`: only sessions that could have renewed for a whole TTL.
SELECT leases.run, leases.epoch, leases.agent, sessions.ttl
FROM queue.sessions
JOIN queue.leases ON leases.agent = sessions.agent AND leases.session = sessions.id
WHERE sessions.expires_at < now() AND sessions.ttl <= CAST(:healthy_for AS interval)
LIMIT :most
FOR UPDATE OF sessions SKIP LOCKED
