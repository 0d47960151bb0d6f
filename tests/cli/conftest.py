"""One small checkpoint and one bundle, made by the commands themselves, for all tests of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgessl.cli import cli

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run `edgessl` with these arguments in this process; exit codes and streams are those of the program."""

    def invoke(*args: object, expect: int = 0) -> Result:
        result = CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="edgessl")
        assert result.exit_code == expect, result.output
        return result

    return invoke


@dataclass(frozen=True)
class Made:
    """What the commands wrote and what they said with --json."""

    checkpoint: Path
    pretrained: dict[str, Any]
    pretraining: str  # its stderr


@dataclass(frozen=True)
class Exported:
    bundle: Path
    said: dict[str, Any]


@pytest.fixture(scope="session")
def made(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Made:
    checkpoint = tmp_path_factory.mktemp("cli") / "tiny" / "checkpoint.safetensors"
    found = run("pretrain", "digits", "--epochs", 1, "--lr", 0.002, "--seed", 3, "--out", checkpoint, "--json")
    return Made(checkpoint, json.loads(found.stdout), found.stderr)


@pytest.fixture(scope="session")
def exported(run: Run, made: Made) -> Exported:
    found = run("export", made.checkpoint, "--calibrate", "digits", "--batch-size", 8, "--set", "lr=0.0005", "--json")
    said = json.loads(found.stdout)
    return Exported(Path(said["bundle"]), said)
