"""Differential privacy, central and local, and secure aggregation."""
