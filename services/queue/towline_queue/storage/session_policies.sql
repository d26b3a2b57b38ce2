SELECT name, spec FROM queue.queues WHERE name = ANY(CAST(:queues AS text[]))
