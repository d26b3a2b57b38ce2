"""The registry service: jobs, artifacts, blobs."""
