-- Take the lead of some work, or keep it; no row: somebody else leads, and its term goes on.
INSERT INTO queue.leaders AS leader (name, holder, term, expires_at)
VALUES (CAST(:name AS text), CAST(:holder AS uuid), 1, now() + CAST(:length AS interval))
ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, expires_at = excluded.expires_at,
    term = leader.term + CASE WHEN leader.holder = excluded.holder THEN 0 ELSE 1 END
WHERE leader.holder = excluded.holder OR leader.expires_at < now()
RETURNING holder
