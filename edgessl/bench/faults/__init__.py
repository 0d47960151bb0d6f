"""Kills, mutated inputs, soak, attacks."""
