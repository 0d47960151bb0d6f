"""Spiking networks: accuracy, continual learning, energy, speed."""
