"""Lava 0.10.0 as an oracle, in a worker process with an environment of its own; nothing here imports it."""
