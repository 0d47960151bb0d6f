"""Do no harm: collapse, and the past re-examined."""
