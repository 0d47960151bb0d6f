"""Exported graphs on an NVIDIA GPU, beside torch."""
