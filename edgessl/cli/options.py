"""How the command line reads values: byte sizes, key=value pairs, lists, and the options that commands share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgessl.data.source import Source

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ki|mi|gi|k|m|g|)b?\s*", re.IGNORECASE)

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Result = TypeVar("Result")


class ByteSize(click.ParamType):
    """Bytes: 4MB and 512k count in thousands, 4MiB and 512KiB in 1024s."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is not a size; write it like 4MB, 512k or 4MiB", param, ctx)
        return int(float(found[1]) * _UNITS[found[2].lower()])


class KeyValue(click.ParamType):
    """`key=value`; the value is read as JSON where it is JSON and as a string otherwise."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """The key and the typed value."""
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not key.strip() or not equals:
            self.fail(f"{value!r} is not key=value", param, ctx)
        try:
            return key.strip(), json.loads(text)
        except ValueError:
            return key.strip(), text


class CommaList(click.ParamType):
    """Values separated by commas, each read by `item` (str or int)."""

    name = "list"

    def __init__(self, item: Callable[[str], Any] = str) -> None:
        self.item = item

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        """The list; at least one entry."""
        if isinstance(value, list):
            return value
        try:
            found = [self.item(part.strip()) for part in value.split(",") if part.strip()]
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers like 1,2", param, ctx)
        return found or self.fail(f"{value!r} is an empty list", param, ctx)


def unique(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Callback that makes a dict of repeated key=value options; a key given twice is a mistake."""
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise click.BadParameter(f"{key!r} is given twice", ctx, param)
    return dict(pairs)


def numbers(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, Any], ...]) -> dict[str, float]:
    """Callback like `unique` whose values are numbers: hyperparameters."""
    values = unique(ctx, param, pairs)
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise click.BadParameter(f"{key!r} takes a number, found {value!r}", ctx, param)
    return {key: float(value) for key, value in values.items()}


def key_values(
    option: str, into: str, help: str, callback: Callable[..., Any] = unique
) -> Callable[[Decorated], Decorated]:
    """A repeatable `key=value` option whose dict is the command's argument `into`."""
    return click.option(option, into, type=KeyValue(), multiple=True, callback=callback, help=f"{help} Repeatable.")


def count(option: str, default: int, help: str, least: int = 1) -> Callable[[Decorated], Decorated]:
    """An option that takes a whole number."""
    kind = click.IntRange(least)
    return click.option(option, type=kind, metavar="N", default=default, show_default=True, help=help)


data_options = key_values("--data", "data_options", "Option of the data's reader, such as window=128 or kind=image.")
json_flag = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def open_data(spec: str, options: dict[str, Any]) -> Source:
    """Open DATA with its reader's options; an option of the wrong type is the user's to correct."""
    from edgessl.data import open_source

    return fitting(spec, options, lambda: open_source(spec, **options))


def fitting(spec: str, options: dict[str, Any], read: Callable[[], Result]) -> Result:
    """What `read` returns; an option of the wrong type becomes a DataError about DATA."""
    from edgessl.errors import DataError

    try:
        return read()
    except (TypeError, AttributeError) as error:  # a reader handed, say, a list where it takes a number
        if not options:
            raise
        raise DataError(f"{spec}: options {options} do not fit its reader ({error})") from error


def torch_device(name: str) -> str:
    """The device that `name` (auto, cpu, cuda, cuda:N) means here; click.BadParameter where there is no such one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise click.BadParameter(f"{name!r}; expected auto, cpu, cuda or cuda:N", param_hint="'--device'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter(f"{name!r}: torch {torch.__version__} sees no GPU here", param_hint="'--device'")
    return name


def data_name(spec: str) -> str:
    """A short name for DATA, fit for a folder: the part after `shared:`, or the file's stem."""
    return Path(spec).stem if "/" in spec or "." in spec else spec.removeprefix("shared:").replace(":", "-")
