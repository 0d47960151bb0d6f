"""`edgessl neuro setup`: the environment in which Lava runs."""

from __future__ import annotations

import click

from edgessl.cli.console import Stages, console, print_json, show_facts
from edgessl.cli.group import examples
from edgessl.cli.options import json_flag


@click.command(epilog=examples("edgessl neuro setup", "EDGESSL_CACHE=/data/cache edgessl neuro setup"))
@click.option("--force", is_flag=True, help="Make it anew.")
@json_flag
def setup(force: bool, as_json: bool) -> None:
    """Make the Lava worker's environment.

    Python 3.10 with Lava 0.10.0, in the cache folder.

    Python 3.10 is looked for on PATH, among pyenv's versions and with uv; uv makes the environment where it is there,
    venv otherwise. EDGESSL_LAVA_PYTHON names an environment that has Lava already; nothing is made then.
    """
    with Stages() as stages:
        stages.update("setting up Lava")
        from neuromorphic.lava.environment import set_up

        found = set_up(lambda line: stages.update("setting up Lava", note=line), force)
    if as_json:
        print_json({"interpreter": str(found.python), "versions": found.versions})
    else:
        show_facts(console(), [("interpreter", str(found.python)), *found.versions.items()])
