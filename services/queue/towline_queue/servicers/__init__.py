"""The queue service's gRPC face: it only translates."""
