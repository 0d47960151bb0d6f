"""Flower's primitives for secure aggregation: keys, shares of secrets, encryption.

Not its mask generator: `pseudo_rand_gen` folds a seed of 32 bytes into 32 bits, which a server can try out in minutes.
"""

from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

__all__ = ["combine_shares", "create_shares", "decrypt", "encrypt", "new_keys", "public_of", "shared_key"]


def new_keys() -> tuple[bytes, bytes]:
    """A private key and its public key, P-384, as PEM."""
    private, public = generate_key_pairs()
    return private_key_to_bytes(private), public_key_to_bytes(public)


def public_of(private: bytes) -> bytes:
    """The public key that belongs to a private one; ValueError for bytes that are none."""
    return public_key_to_bytes(bytes_to_private_key(private).public_key())


def shared_key(private: bytes, public: bytes) -> bytes:
    """What two devices have in common (ECDH, HKDF-SHA256): 32 bytes in base64, as `encrypt` takes it."""
    return generate_shared_key(bytes_to_private_key(private), bytes_to_public_key(public))
