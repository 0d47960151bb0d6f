"""`edgessl continual`: streams that never announce a change, and what strategies keep of them."""

from __future__ import annotations

import click

from edgessl.cli.group import LazyGroup, examples

COMMANDS = {"bench": "edgessl.cli.continual_bench:bench"}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    epilog=examples("edgessl continual bench --streams split_fashion --strategies replay-reservoir,lump"),
)
def continual() -> None:
    """Learn on from a stream without forgetting.

    Without labels, without a word of where one context ends and the next begins, within a fixed memory.
    """
