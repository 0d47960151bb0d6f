"""`edgessl bench`: measurements with the machine and the versions they were made on."""

from __future__ import annotations

import importlib
from typing import Any

import click
from rich.console import Console

from edgessl.cli.console import Stages, console, print_json, show_facts
from edgessl.cli.group import examples
from edgessl.cli.options import CommaList, json_flag, key_values

# a bench without one prints its JSON
_TABLES = {
    "step": "edgessl.bench.step.table:step_table",
    "objectives": "edgessl.bench.objectives.page:objectives_table",
    "pretrain": "edgessl.bench.step.table:pretrain_table",
}


@click.command(
    epilog=examples(
        "edgessl bench step",
        "edgessl bench step --encoders ds_cnn_s,vit --threads 1,2 --json > step.json",
        "edgessl bench objectives --objectives random,simclr,vicreg --set suite=digits",
        "edgessl bench step --repeats 3 --set objective=simclr --set turn_seconds=0.5",
        "edgessl bench pretrain --threads 1,2 --json > pretrain.json",
    )
)
@click.argument("name", required=False)
@click.option("--encoders", type=CommaList(), metavar="A,B", help="Encoders to measure.")
@click.option("--objectives", type=CommaList(), metavar="A,B", help="Objectives to compare.")
@click.option("--threads", type=CommaList(int), metavar="1,2", help="Numbers of compute threads.")
@click.option("--repeats", type=click.IntRange(1), metavar="N", help="How often each measurement is taken.")
@key_values("--set", "settings", "Another setting of the bench.")
@json_flag
def bench(
    name: str | None,
    encoders: list[str] | None,
    objectives: list[str] | None,
    threads: list[int] | None,
    repeats: int | None,
    settings: dict[str, Any],
    as_json: bool,
) -> None:
    """Run the bench NAME; without a name, list them.

    Every result carries the machine, the versions and the settings it was measured with. Leave the machine
    alone meanwhile: benches take turns between what they compare, but cannot do without a core.
    """
    from edgessl.bench import BENCHES, load_bench
    from edgessl.data.optional import call_with_options

    if name is None:
        if as_json:
            print_json({"benches": list(BENCHES)})
        else:
            show_facts(console(), [(key, (load_bench(key).__doc__ or "").strip().split("\n")[0]) for key in BENCHES])
        return
    function = load_bench(name)
    given = {"encoders": encoders, "objectives": objectives, "threads": threads, "turns": repeats}
    options = {**{key: value for key, value in given.items() if value is not None}, **settings}
    with Stages() as stages:
        stages.update(f"bench {name}")
        result = call_with_options(
            function, f"bench {name!r}", progress=lambda line: stages.update(f"bench {name}", note=line), **options
        )
    if as_json or name not in _TABLES:
        print_json(result)
    else:
        module, function_name = _TABLES[name].split(":")
        Console().print(getattr(importlib.import_module(module), function_name)(result))
