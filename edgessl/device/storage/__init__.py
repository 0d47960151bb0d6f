"""What lies on disk and survives a crash: files, tensors, learned state, journal."""
