UPDATE queue.agents SET withheld = :why WHERE name = :agent AND session = CAST(:session AS uuid)
