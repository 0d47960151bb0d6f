"""The order bench: who has which samples, and one round of everything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgessl.bench import load_bench
from edgessl.bench.federated import order, order_data
from edgessl.data import load_shared
from edgessl.errors import ConfigError, DataError


@pytest.fixture
def data() -> None:
    try:
        for split in order_data.DATA.values():
            load_shared(split.shared)
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.slow  # reading the data takes seconds
@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", order_data.DATA)
def test_a_device_has_its_own_classes_and_nobody_has_a_test_sample(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(order_data.DATA[name], train=12, test=5, validation=7 if name == "fashion_mnist" else 0)
    monkeypatch.setitem(order_data.DATA, name, small)
    found = order_data.shards(name, seed=1)
    assert [len(part) for part in found.devices] == [12 * small.classes // 5] * 5
    assert np.bincount(found.labels).tolist() == [12] * small.classes
    assert np.bincount(found.test_labels).tolist() == [5] * small.classes
    again, other = order_data.shards(name, seed=1), order_data.shards(name, seed=2)
    np.testing.assert_array_equal(found.devices[3], again.devices[3])
    assert not np.array_equal(found.devices[3], other.devices[3])
    if name == "fashion_mnist":
        held = order_data.shards(name, seed=1, validate=True)
        assert len(held.test) == 70
        own = {x.tobytes() for part in held.devices for x in part}
        assert not own & {x.tobytes() for x in held.test}


@pytest.mark.slow  # reading the data takes seconds
@pytest.mark.usefixtures("data")
def test_every_fine_class_is_in_its_superclass() -> None:
    names = load_shared("cifar100_sub").classes
    numbers = order_data._superclasses(names)
    assert np.bincount(numbers[numbers >= 0]).tolist() == [5] * 10
    assert {names[i] for i in np.flatnonzero(numbers == 1)} == set(order_data.SUPERCLASSES["fish"])


@pytest.mark.slow  # reading the data takes seconds
@pytest.mark.usefixtures("data")
def test_one_round_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(order_data.DATA["fashion_mnist"], train=20, test=10, validation=0)
    monkeypatch.setitem(order_data.DATA, "fashion_mnist", small)
    out, options = tmp_path / "order.json", {"rounds": 2, "local_steps": 1}
    told: list[str] = []
    result = load_bench("federated_order")(["fashion_mnist"], seeds=[0], out=str(out), progress=told.append, **options)
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == list(order.METHODS)
    assert len(told) == len(rows)
    assert all(0 <= row[key] <= 100 for row in rows.values() for key in ("knn", "linear"))
    assert len({rows[name]["client_knn"] for name in ("fedavg", "fedema", "fedx")}) == 3
    assert json.loads(out.read_text())["rows"] == result["rows"]
    again = load_bench("federated_order")(["fashion_mnist"], seeds=[0], out=str(out), progress=told.append, **options)
    assert again["rows"] == result["rows"]
    assert len(told) == len(rows)
    with pytest.raises(ConfigError, match="measured with other settings"):
        load_bench("federated_order")(["fashion_mnist"], seeds=[0], out=str(out))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown method 'fedsgd'; choose among random, standalone"):
        order.run(methods=["fedsgd"])
    with pytest.raises(ConfigError, match="unknown setting 'round'; choose among rounds, local_steps"):
        order.run(round=3)
    with pytest.raises(ConfigError, match="no train samples to spare"):
        order_data.shards("cifar100_sub", 0, validate=True)
