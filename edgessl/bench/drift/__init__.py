"""Drift detectors on streams with known changes."""
