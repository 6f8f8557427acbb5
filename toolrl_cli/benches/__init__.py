"""Benchmarks: entries in, graded results out."""
