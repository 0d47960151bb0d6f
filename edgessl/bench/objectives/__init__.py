"""The objectives side by side, three seeds."""
