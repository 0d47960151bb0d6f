"""Benchmarks of federations."""
