-- What the runs of a submission are checked by, of the queues that are there.
SELECT name, spec, revision, create_time FROM queue.queues WHERE name = ANY(CAST(:names AS text[]))
