from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

import edgessl
from edgessl.cli import cli
from edgessl.cli.group import LazyGroup
from edgessl.encoders import ENCODERS
from edgessl.objectives import OBJECTIVES
from edgessl.optim import OPTIMIZERS
from edgessl.recipe import Recipe


def walk(group: LazyGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, LazyGroup):
            yield from walk(command, (*path, name))


COMMANDS = dict(walk(cli))


def example_lines(command: click.Command) -> list[str]:
    lines = [line.strip() for line in (command.epilog or "").splitlines()]
    return [line for line in lines if line and line not in ("\b", "Examples:")]


def test_every_command_is_there() -> None:
    top = [path[0] for path in COMMANDS if len(path) == 1]
    assert top == [
        "pretrain",
        "evaluate",
        "export",
        "inspect",
        "keys",
        "sign",
        "verify",
        "stream",
        "federate",
        "continual",
        "neuro",
        "bench",
        "demo",
        "doctor",
    ]
    assert {("federate", "simulate"), ("federate", "loopback"), ("federate", "join")} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_teaches_with_an_example(run, path: tuple[str, ...]) -> None:
    text = run(*path, "--help").stdout
    assert "Examples:" in text
    assert f"edgessl {' '.join(path)}" in text.split("Examples:")[1]
    described = [
        line for line in text.split("Options:")[1].split("Examples:")[0].splitlines() if line.startswith("  -")
    ]
    assert described
    assert len(COMMANDS[path].get_short_help_str(200)) < 72  # fits the list of commands


@pytest.mark.parametrize(
    "line", [line for command in (cli, *COMMANDS.values()) for line in example_lines(command)], ids=lambda s: s[:60]
)
def test_examples_are_valid_commands(line: str) -> None:
    words = shlex.split(line.split("|")[0].split(">")[0])
    while words[0] != "edgessl":  # torchrun --nproc-per-node 2 -m edgessl ...
        words.pop(0)
    words.pop(0)
    command: click.Command = cli
    context = click.Context(cli, info_name="edgessl")
    if words[0] == "COMMAND":
        return
    while isinstance(command, LazyGroup):
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
    parsed = command.make_context("example", words, parent=context)
    assert parsed.params


def test_help_names_what_is_registered_and_the_recipes_defaults(run) -> None:
    text = " ".join(run("pretrain", "--help").stdout.split())
    for registry, names in (
        (ENCODERS, ("ds_cnn_s", "resnet8", "vit", "cnn1d")),
        (OBJECTIVES, ("simclr", "vicreg", "byol", "moco")),
        (OPTIMIZERS, ("adamw", "sgd", "lars")),
    ):
        for name in names:
            assert name in registry
            assert name in text
    recipe = Recipe()
    sentence = (
        f"{recipe.objective.name} and {recipe.optimizer} for {recipe.epochs} epochs in batches of {recipe.batch_size}"
    )
    assert sentence in text


def test_version(run) -> None:
    assert run("--version").stdout == f"edgessl {edgessl.__version__}\n"


def test_no_arguments_show_the_help_as_a_mistake(run) -> None:
    for path in ((), ("federate",)):
        found = run(*path, expect=2)
        assert "Commands:" in found.stderr
        assert found.stdout == ""


def loaded_by(*args: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running the program."""
    code = (
        "import json, sys\nfrom edgessl.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_by("--help")
    assert "click" in loaded
    assert not loaded & {"torch", "flwr", "matplotlib", "onnx", "onnxruntime", "numpy", "pydantic", "sklearn"}


def test_inspect_loads_the_device_side_only(made, exported) -> None:
    for path in (made.checkpoint, exported.bundle):
        loaded = loaded_by("inspect", str(path), "--json")
        assert "numpy" in loaded
        assert not loaded & {"torch", "flwr", "matplotlib", "onnx", "pydantic", "sklearn"}
