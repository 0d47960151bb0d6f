"""Spiking predictive coding and its road to Loihi-class integers. Not built yet: the README's status table says what
is."""
