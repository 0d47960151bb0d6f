"""Encoders with constant weights, int8 or float, that follow what the device learned; checked or undone."""
