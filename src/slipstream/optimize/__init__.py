"""Finds what a machine runs fastest within given limits, and proves it."""
