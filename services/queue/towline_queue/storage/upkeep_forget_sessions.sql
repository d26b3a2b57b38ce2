-- Drop sessions that were followed by another and hold nothing any more.
WITH forgotten AS (
    DELETE FROM queue.sessions USING queue.agents
    WHERE agents.name = sessions.agent AND agents.session_epoch > sessions.epoch
      AND NOT EXISTS (
          SELECT FROM queue.leases
          WHERE leases.agent = sessions.agent AND leases.session = sessions.id)
    RETURNING 1
)
SELECT count(*) AS forgotten FROM forgotten
