-- Drop answers to requests that are older than `kept`, up to `most` of them.
WITH forgotten AS (
    DELETE FROM queue.requests
    WHERE (method, request_id) IN (
        SELECT method, request_id FROM queue.requests
        WHERE create_time < now() - CAST(:kept AS interval)
        LIMIT :most
    )
    RETURNING 1
)
SELECT count(*) AS forgotten FROM forgotten
