"""The device path: memory, time, size; full and latent."""
