"""Benchmarks: the problem list and whole models, with the flag, without it, and elsewhere."""
