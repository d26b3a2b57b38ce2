-- Runs of queues that have not ended, one row for each place that has some. A run is in one place.
SELECT queue, sum(size) AS waiting, 0 AS active
FROM queue.ready
WHERE queue = ANY(:queues)
GROUP BY queue
UNION ALL
SELECT runs.queue, count(*), 0
FROM queue.scheduled
JOIN queue.runs ON runs.name = scheduled.run
WHERE runs.queue = ANY(:queues)
GROUP BY runs.queue
UNION ALL
SELECT queue, 0, count(*)
FROM queue.leases
WHERE queue = ANY(:queues)
GROUP BY queue
