"""Spiking predictive coding and its road to Loihi-class integers: train, convert, simulate bit for bit, count."""
