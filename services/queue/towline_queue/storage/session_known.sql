SELECT name FROM queue.runs WHERE name = ANY(CAST(:runs AS text[]))
