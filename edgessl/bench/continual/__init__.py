"""Strategies against forgetting, over streams."""
