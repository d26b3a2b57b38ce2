-- Drop answers to requests that are older than `kept`, up to `most` of them, the oldest first.
-- By their places, not by their keys: those would be compared with the keys of the whole table, by some plans.
WITH forgotten AS (
    DELETE FROM queue.requests
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM queue.requests
        WHERE create_time < now() - CAST(:kept AS interval)
        ORDER BY create_time
        LIMIT :most
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) AS forgotten FROM forgotten
