"""gRPC as Towline uses it: channels, and the map between errors and statuses."""
