"""Bytes on their way in, in place, and on their way out."""
