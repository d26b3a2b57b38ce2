-- Make an agent that nobody has heard of; one that is there stays as it is.
INSERT INTO queue.agents (name, instance_id, boot_id, hostname, version, queues, capacity, gpus)
VALUES (:agent, :instance_id, :boot_id, :hostname, :version, CAST(:queues AS text[]), :capacity,
        CAST(:gpus AS bytea[]))
ON CONFLICT DO NOTHING
