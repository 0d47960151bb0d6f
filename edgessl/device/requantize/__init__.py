"""The int8 encoder follows what the device learned: new weights and ranges in its graph, checked or undone."""
