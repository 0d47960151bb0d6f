"""edgessl: self-supervised learning that continues on the device."""

__version__ = "0.1.0"
