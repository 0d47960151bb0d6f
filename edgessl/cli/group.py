"""A click group that imports a command when it is asked for and turns errors into one paragraph on stderr."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from edgessl.errors import EdgeSSLError

INTERNAL, USER, INTERRUPTED = 1, 2, 130

# module -> the extra that brings it; anything else that is missing is a fault of ours
_EXTRAS = {
    "cryptography": "secure",
    "flwr": "federated",
    "jinja2": "train",
    "matplotlib": "train",
    "nir": "neuromorphic",
    "numba": "compiled",
    "onnx": "export",
    "onnxscript": "export",
    "pydantic": "train",
    "sklearn": "train",
    "snntorch": "neuromorphic",
    "torch": "train",
}


@dataclass
class Settings:
    """What holds for the whole invocation."""

    debug: bool = False


def turn_on_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Callback of `--debug`."""
    if value and isinstance(ctx.obj, Settings):
        ctx.obj.debug = True


def examples(*lines: str) -> str:
    """An epilog that shows command lines as they are typed."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


class LazyGroup(click.Group):
    """A group whose commands are imported on first use; `lazy` maps a name to "module:attribute", in display order."""

    def __init__(self, *args: Any, lazy: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of a first day with edgessl."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; a name that is not there gets the nearest one as advice."""
        if cmd_name in self.lazy:
            module, attribute = self.lazy[cmd_name].split(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        near = difflib.get_close_matches(cmd_name, self.lazy, 1)
        advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.lazy)}"
        raise click.UsageError(f"unknown command {cmd_name!r}; {advice}", ctx)


class RootGroup(LazyGroup):
    """The program: whatever a command raises ends as a message and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run and exit; see the exit codes in the program's help."""
        settings = Settings(debug=os.environ.get("EDGESSL_DEBUG", "") not in ("", "0"))
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, obj=settings, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:  # `edgessl ... | head`; what is still buffered has nowhere to go
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(INTERNAL)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = USER
        except (Exception, KeyboardInterrupt) as error:
            if settings.debug:
                traceback.print_exc()
            message, code = explain(error)
            click.echo(f"{click.style('edgessl:', fg='red', bold=True)} {message}", err=True)
        sys.exit(code if isinstance(code, int) else 0)


def explain(error: BaseException) -> tuple[str, int]:
    """One paragraph and an exit code for what a command raised."""
    rank = os.environ.get("RANK", "0")
    where = "" if rank == "0" else f"process {rank}: "
    if isinstance(error, KeyboardInterrupt | click.Abort):
        said = str(error.__cause__ or error)  # click raises Abort from the KeyboardInterrupt it caught
        return where + (said or "interrupted"), INTERRUPTED
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "edgessl"
        return _paragraph(f"{where}{error.format_message()} Try '{path} --help'."), USER
    if isinstance(error, click.ClickException):
        return _paragraph(where + error.format_message()), USER
    if isinstance(error, EdgeSSLError):
        return where + str(error), USER  # as written: a federation's error ends with lines of its logs
    if isinstance(error, ModuleNotFoundError) and (root := (error.name or "").split(".")[0]) in _EXTRAS:
        return f"{where}{root} is not installed; run: pip install 'edgessl[{_EXTRAS[root]}]'", USER
    if isinstance(error, OSError) and error.filename is not None:
        return f"{where}{os.fspath(error.filename)}: {error.strerror}", USER
    found = f"{type(error).__name__}: {error}"
    return _paragraph(f"{where}internal error: {found} (the traceback: edgessl --debug ...)"), INTERNAL


def _paragraph(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
