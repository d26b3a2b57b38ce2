"""What requests carry, read strictly: JSON, JSON Schemas, page tokens, what is wrong. No input and output."""
