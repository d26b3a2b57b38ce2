"""Bits that several kinds of tests share."""
