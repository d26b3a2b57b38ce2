"""Translation between towline.v1 and what the registry does."""
