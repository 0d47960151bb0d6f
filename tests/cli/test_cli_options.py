from __future__ import annotations

import json
import math

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgessl.cli.console import duration, print_json, size
from edgessl.cli.inspect import plain, sparkline
from edgessl.cli.options import ByteSize, CommaList, KeyValue, data_name, numbers, unique
from edgessl.cli.pretrain import overlay
from edgessl.errors import ConfigError
from edgessl.recipe import Recipe, parse_recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("77", 77), ("512k", 512_000), ("4MB", 4_000_000), ("4 mb", 4_000_000), ("4MiB", 4 << 20),
     ("512KiB", 512 << 10), ("1.5M", 1_500_000), ("2G", 2_000_000_000), ("1GiB", 1 << 30), ("12B", 12)],
)  # fmt: skip
def test_sizes(text: str, expected: int) -> None:
    assert ByteSize().convert(text, None, None) == expected


@pytest.mark.parametrize("text", ["", "MB", "-1", "4 parsecs", "4TB", "1e6", "0x10", "4MB4"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="4MB, 512k or 4MiB"):
        ByteSize().convert(text, None, None)


@given(st.integers(0, 10**12))
def test_sizes_survive_as_plain_bytes(n: int) -> None:
    assert ByteSize().convert(str(n), None, None) == n


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=1", 1), ("a=1.5", 1.5), ("a=true", True), ("a=null", None), ("a=[1,2]", [1, 2]), ("a=x", "x"), ("a=", ""),
     ('a="1"', "1"), ("a=b=c", "b=c"), ("a=/data/x.npy", "/data/x.npy"), ('a={"b": 1}', {"b": 1})],
)  # fmt: skip
def test_key_values_are_typed(text: str, value: object) -> None:
    found = KeyValue().convert(text, None, None)
    assert found == ("a", value)
    assert type(found[1]) is type(value)


@given(st.dictionaries(st.from_regex(r"[a-z_.]+", fullmatch=True), st.integers() | st.booleans() | st.text()))
def test_key_values_round_trip_through_json(values: dict[str, object]) -> None:
    context = click.Context(click.Command("x"))
    pairs = tuple(KeyValue().convert(f"{key}={json.dumps(value)}", None, None) for key, value in values.items())
    assert unique(context, click.Option(["--set"]), pairs) == values


@pytest.mark.parametrize("text", ["a", "=1", ""])
def test_what_is_no_key_value(text: str) -> None:
    with pytest.raises(click.BadParameter, match="not key=value"):
        KeyValue().convert(text, None, None)


def test_repeats_and_words_are_refused_where_numbers_are_wanted() -> None:
    context, option = click.Context(click.Command("x")), click.Option(["--set"])
    assert numbers(context, option, (("lr", 1), ("eps", 0.5))) == {"lr": 1.0, "eps": 0.5}
    with pytest.raises(click.BadParameter, match="'lr' is given twice"):
        unique(context, option, (("lr", 1), ("lr", 2)))
    for value in ("fast", True, None, [1]):
        with pytest.raises(click.BadParameter, match="'lr' takes a number"):
            numbers(context, option, (("lr", value),))


def test_comma_lists() -> None:
    assert CommaList(int).convert("1, 2", None, None) == [1, 2]
    assert CommaList().convert("vit,ds_cnn_s", None, None) == ["vit", "ds_cnn_s"]
    for text in ("1,x", ","):
        with pytest.raises(click.BadParameter):
            CommaList(int).convert(text, None, None)


@pytest.mark.parametrize(
    ("spec", "name"),
    [("digits", "digits"), ("digits:test", "digits-test"), ("shared:hapt", "hapt"), ("shared:hapt:test", "hapt-test"),
     ("a/b/pump.npy", "pump"), ("pump.csv", "pump"), ("recordings/", "recordings")],
)  # fmt: skip
def test_data_names(spec: str, name: str) -> None:
    assert data_name(spec) == name


NOTHING = {
    "encoder": None, "objective": None, "optimizer": None, "norm": None, "epochs": None, "batch_size": None, "lr": None,
    "seed": None, "precision": None, "chunk": None, "compiled": False, "settings": {},
}  # fmt: skip


def test_overlay_without_options_changes_nothing() -> None:
    values = Recipe().model_dump()
    assert overlay(Recipe().model_dump(), dict(NOTHING)) == values


def test_overlay_puts_options_in_their_places() -> None:
    base = Recipe.model_validate(
        {"encoder": {"name": "vit", "options": {"depth": 2}}, "hyper": {"lr": 1.0, "eps": 1.0}}
    )
    settings = {"hyper.temperature": 0.2, "warmup": 0.1, "objective.options.hidden": 32, "views": [{"name": "jitter"}]}
    chosen = {**NOTHING, "encoder": "ds_cnn_s", "norm": "batch", "lr": 0.5, "epochs": 2, "settings": settings}
    recipe = parse_recipe(overlay(base.model_dump(), chosen))
    assert recipe.encoder.name == "ds_cnn_s"
    assert recipe.encoder.options == {"norm": "batch"}  # the depth was the other encoder's
    assert recipe.hyper == {"lr": 0.5, "eps": 1.0, "temperature": 0.2}
    assert (recipe.epochs, recipe.warmup, recipe.objective.options) == (2, 0.1, {"hidden": 32})
    assert recipe.views is not None
    assert recipe.views[0].name == "jitter"


def test_overlay_keeps_the_options_of_the_encoder_it_has() -> None:
    base = Recipe.model_validate({"encoder": {"name": "vit", "options": {"depth": 2}}})
    assert overlay(base.model_dump(), {**NOTHING, "encoder": "vit"})["encoder"]["options"] == {"depth": 2}


def test_overlay_of_what_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="hypre"):
        parse_recipe(overlay(Recipe().model_dump(), {**NOTHING, "settings": {"hypre.lr": 1}}))
    with pytest.raises(click.BadParameter, match="'epochs' has no keys"):
        overlay(Recipe().model_dump(), {**NOTHING, "settings": {"epochs.lr": 1}})


def test_figures_for_people() -> None:
    assert [size(n) for n in (0, 999, 1000, 4_194_304, 3_200_000_000)] == ["0 B", "999 B", "1.0 kB", "4.2 MB", "3.2 GB"]
    assert [duration(s) for s in (0.04, 9.96, 12.3, 185, 3723)] == ["0.0 s", "10.0 s", "12 s", "3:05", "1:02:03"]


def test_sparkline_is_scaled_and_bounded() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([0.0, math.nan, 1.0]) == "▁.█"
    assert len(sparkline(list(range(1000)))) == 48


def test_values_from_files_cannot_move_the_cursor() -> None:
    assert plain("\x1b[2Jgone\n") == "\\x1b[2Jgone\\n"
    assert plain(0.1) == "0.1"
    assert plain({"a": [1]}) == '{"a": [1]}'


def test_json_is_valid_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.nan, "b": [math.inf, 1.0], "c": {"d": (1, "é")}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.0], "c": {"d": [1, "é"]}}
