"""The files of examples/deployment name what there is: no container or systemd runs here, so they are read."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from edgessl.cli import cli

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "deployment"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def joined(name: str) -> list[str]:
    """The file's lines, those that end with a backslash joined with the next, without comments."""
    text = (FOLDER / name).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def starting(name: str, word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in joined(name) if line.startswith(word)]


def check_command(arguments: list[str]) -> None:
    """These are `edgessl`'s arguments: the commands exist, and so do their options."""
    command: click.Command = cli
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments.pop(0))
        assert found is not None
        command, context = found, click.Context(found, parent=context)
    options = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
    given = [word for word in arguments if word.startswith("--")]
    assert given
    assert set(given) <= options


def test_the_containerfile_copies_what_the_build_needs():
    copied = [line.split() for line in starting("Containerfile", "COPY ")]
    sources = {source for *names, _ in copied for source in names}
    assert all((ROOT / source).exists() for source in sources)
    for *names, target in copied:
        assert target == "/src/" if len(names) > 1 or (ROOT / names[0]).is_file() else target == f"/src/{names[0]}"
    project, hatch = PROJECT["project"], PROJECT["tool"]["hatch"]
    assert {"pyproject.toml", project["readme"], *project["license-files"]} <= sources
    assert set(hatch["build"]["targets"]["wheel"]["packages"]) <= sources
    assert Path(hatch["version"]["path"]).parts[0] in sources


def test_the_containerfile_installs_extras_that_there_are_on_a_python_that_fits():
    (extras,) = re.findall(r"/src\[([a-z,]+)\]", (FOLDER / "Containerfile").read_text())
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert "federated" in extras.split(",")
    (image,) = starting("Containerfile", "FROM ")
    version = re.search(r"python:(\d+)\.(\d+)", image)
    least = re.search(r">=(\d+)\.(\d+)", PROJECT["project"]["requires-python"])
    assert version is not None
    assert least is not None
    assert tuple(map(int, version.groups())) >= tuple(map(int, least.groups()))


def test_the_containerfile_starts_a_command_that_there_is():
    (entry,) = starting("Containerfile", "ENTRYPOINT ")
    program, *arguments = json.loads(entry)
    assert program in PROJECT["project"]["scripts"]
    check_command(arguments)
    volume = starting("Containerfile", "VOLUME ")
    assert arguments[arguments.index("--state") + 1] in volume


@pytest.mark.parametrize("unit", sorted(path.name for path in FOLDER.glob("*.service")))
def test_a_unit_starts_a_command_that_there_is(unit):
    (start,) = starting(unit, "ExecStart=")
    program, *arguments = shlex.split(start)
    assert Path(program).name in PROJECT["project"]["scripts"]
    check_command(arguments)
