"""Folders up to the registry and down again, beside `cp -r` and `sha256sum` of the same folders."""
