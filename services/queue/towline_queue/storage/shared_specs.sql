-- Read what runs share of their launch specs.
SELECT digest, spec FROM queue.launch_specs WHERE digest = ANY(CAST(:digests AS bytea[]))
