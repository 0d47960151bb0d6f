"""Updates in fewer bytes: a self-describing payload, its codecs, and what both ends keep to speak in differences."""

from federated.codecs.codec import Codec, decode, parse_codec

__all__ = ["Codec", "decode", "parse_codec"]
