"""Drift without labels, and what follows a drifting sensor (docs/drift.md)."""
