"""Pretraining throughput beside a plain loop."""
