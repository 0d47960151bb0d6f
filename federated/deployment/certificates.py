"""Certificates for a federation of one's own: a CA that the devices trust, and the server's certificate.

Elliptic curves (P-256) and X.509 v3 as TLS libraries of today check it. Who has a public host name and a certificate
for it from a public CA needs none of this.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgessl.device.storage.files import write_atomically
from edgessl.errors import ConfigError
from federated.node.identity import write_new

CA, CA_KEY, CERTIFICATE, KEY = "ca.crt", "ca.key", "server.crt", "server.key"
_EARLIER = timedelta(days=1)  # devices' clocks may be behind
_LOCAL = ("localhost", "127.0.0.1", "::1")


def create_authority(folder: Path, *, days: int = 3650) -> x509.Certificate:
    """A new CA in `folder`: ca.crt for every device, ca.key for nobody. ConfigError when there is one already."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("edgessl federation CA")
    usage = _usage(key_cert_sign=True, crl_sign=True, digital_signature=True)
    certificate = (
        _builder(name, name, key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_new(folder / CA_KEY, _pem(key), 0o600)
    write_new(folder / CA, certificate.public_bytes(Encoding.PEM), 0o644)
    return certificate


def issue_server(folder: Path, hosts: Sequence[str], *, days: int = 397, earlier: timedelta = _EARLIER) -> datetime:
    """A server certificate for `hosts` (names and addresses; this machine's own are added) by the CA in `folder`.

    Written to server.crt and server.key over an earlier one, which is how it is renewed; returns when it expires.
    ConfigError when the CA is missing, damaged or does not live that long.
    """
    authority, authority_key = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    names = [_host(host) for host in dict.fromkeys([*hosts, *_LOCAL])]
    issuer_key_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(_name(hosts[0] if hosts else "localhost"), authority.subject, key, days, earlier)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    if certificate.not_valid_after_utc > authority.not_valid_after_utc:
        raise ConfigError(f"{folder / CA}: ends {authority.not_valid_after_utc:%Y-%m-%d}, before {days} days are over")
    (folder / KEY).unlink(missing_ok=True)
    write_new(folder / KEY, _pem(key), 0o600)
    write_atomically(folder / CERTIFICATE, certificate.public_bytes(Encoding.PEM))
    return certificate.not_valid_after_utc


def expiry(path: Path) -> datetime:
    """When the first certificate of a PEM file ends; ConfigError for a file that has none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; edgessl federate certs makes one") from None
    except ValueError:
        raise ConfigError(f"{path}: no PEM certificate") from None


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((folder / CA).read_bytes())
        key = load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror or error}; edgessl federate certs makes one") from None
    except (ValueError, TypeError):
        raise ConfigError(f"{folder}: {CA} or {CA_KEY} is damaged; restore both from a backup") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(f"{folder}: {CA_KEY} is not the key of {CA}")
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int, earlier: timedelta = _EARLIER
) -> x509.CertificateBuilder:
    begin = datetime.now(UTC) - earlier
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise ConfigError(f"host {host!r}: expected a name or an address in ASCII") from None


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _usage(**on: bool) -> x509.KeyUsage:
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: on.get(name, False) for name in every})


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
