-- Give a locked agent's name to a session. Of the same instance, the sessions before it are dropped: all
-- its leases are settled in this transaction. Done again for the session that has the name, it renews it.
WITH replaced AS (
    DELETE FROM queue.sessions
    WHERE agent = :agent AND id <> CAST(:session AS uuid) AND CAST(:same_instance AS boolean)
), opened AS (
    INSERT INTO queue.sessions (id, agent, epoch, seen_time, disconnected_after)
    VALUES (CAST(:session AS uuid), :agent, CAST(:epoch AS bigint), now(), :disconnected_after)
    ON CONFLICT (id) DO UPDATE
    SET epoch = excluded.epoch, seen_time = excluded.seen_time,
        disconnected_after = excluded.disconnected_after
)
UPDATE queue.agents
SET instance_id = :instance_id, boot_id = :boot_id, hostname = :hostname, version = :version,
    queues = CAST(:queues AS text[]), capacity = :capacity, gpus = CAST(:gpus AS bytea[]),
    labels = CAST(:labels AS jsonb), hello_seq = :hello_seq,
    session = CAST(:session AS uuid), session_epoch = CAST(:epoch AS bigint),
    draining = CAST(:draining AS boolean),
    withheld = '',
    drain_deadline = CASE WHEN CAST(:draining AS boolean) THEN drain_deadline END
WHERE name = :agent
