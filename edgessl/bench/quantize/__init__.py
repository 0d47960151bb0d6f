"""The quantize bench: size, latency and what quantization does to the representation."""
