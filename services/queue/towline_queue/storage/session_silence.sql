-- How long sessions have been silent. The agents' locks are held: what is read here cannot be followed by another.
SELECT id, disconnected_after, now() - seen_time AS silence
FROM queue.sessions
WHERE id = ANY(CAST(:sessions AS uuid[]))
