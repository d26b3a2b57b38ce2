"""What requests carry, read strictly: JSON, JSON Schemas, page tokens. No input and output."""
