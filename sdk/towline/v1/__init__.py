"""Generated from protos/towline/v1 by `make protos`; never edited by hand."""
