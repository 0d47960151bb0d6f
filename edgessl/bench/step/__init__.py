"""One training step beside plain PyTorch and its peers."""
