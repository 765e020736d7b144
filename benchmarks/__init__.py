"""Measurements that anyone can run again: `python -m benchmarks.NAME` in the root of the repository."""
