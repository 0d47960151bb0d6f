"""`edgessl keys`, `edgessl sign`, `edgessl verify`: who made a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from edgessl.cli.console import console, print_json, show_facts
from edgessl.cli.group import examples
from edgessl.cli.options import json_flag


@click.command(epilog=examples("edgessl keys factory.pem"))
@click.argument("path", type=click.Path(path_type=Path))
def keys(path: Path) -> None:
    """Make a pair of Ed25519 keys to sign and verify bundles with.

    PATH signs, PATH.pub verifies. Keep PATH where nobody else can read it: whoever has it can make bundles
    that your devices run.
    """
    from edgessl.cli.signing import create_keys

    public = create_keys(path)
    show_facts(console(), [("private", f"{path}: keep it to yourself"), ("public", f"{public}: for every device")])


@click.command(epilog=examples("edgessl sign model.edgessl --key factory.pem"))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Private key, from edgessl keys.")
def sign(bundle: Path, key: Path) -> None:
    """Sign BUNDLE, its manifest and every member.

    The signature has the form of the OpenSSF Model Signing specification and goes into the bundle as model.sig;
    the bundle's digest stays what it was, so that learned state still belongs to it.
    """
    from edgessl.cli.signing import read_private_key
    from edgessl.cli.signing import sign as sign_bundle
    from edgessl.device.bundle.signature import key_id

    private = read_private_key(key)
    sign_bundle(bundle, private)
    show_facts(console(), [("signed", f"{bundle} with key {key_id(private.public_key().public_bytes_raw())}")])


@click.command(epilog=examples("edgessl verify model.edgessl --key factory.pem.pub"))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key",
    "public",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="Public key; may be given more than once: any of them will do.",
)
@json_flag
def verify(bundle: Path, public: tuple[Path, ...], as_json: bool) -> None:
    """Check that BUNDLE is whole and signed with a key you trust.

    This is what a device does before it opens one. The exit code is 2 when anything is wrong.
    """
    from edgessl.device import Bundle
    from edgessl.device.bundle.signature import Trust, read_public_key

    opened = Bundle.open(bundle, Trust(tuple(read_public_key(path) for path in public)))
    found = {"bundle": str(bundle), "digest": opened.digest, "signed_by": opened.signed_by}
    if as_json:
        print_json(found)
    else:
        show_facts(console(), [(name, str(value)) for name, value in found.items()])
