"""The compression bench: its partition, its table, and that the page shows what was measured."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgessl.bench.federated.compression import METHODS, run, table
from edgessl.bench.federated.compression_data import dirichlet
from edgessl.data import load_shared
from edgessl.errors import ConfigError, DataError
from federated.codecs import parse_codec

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "examples" / "results" / "federated_compression.json"


def test_every_method_names_a_codec():
    for codec, _ in METHODS.values():
        assert codec == "whole" or parse_codec(codec).name == codec


def test_dirichlet_gives_every_sample_to_one_device_and_classes_unevenly():
    classes = np.repeat(np.arange(10), 300)
    parts = dirichlet(classes, 10, 0.1, 64, np.random.default_rng(0))
    assert sorted(np.concatenate(parts)) == list(range(3000))
    assert min(map(len, parts)) >= 64
    shares = np.array([np.bincount(classes[part], minlength=10).max() / len(part) for part in parts])
    assert np.median(shares) > 0.4  # of an even spread: 0.1
    even = dirichlet(classes, 10, 1e4, 64, np.random.default_rng(0))
    assert all(np.bincount(classes[part], minlength=10).max() / len(part) < 0.15 for part in even)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="unknown method 'zip'; choose among random; centralised; whole"):
        run(methods=["zip"])
    with pytest.raises(ConfigError, match="unknown data 'cats'"):
        run(data=["cats"])


def row(method, seed, knn, total):
    sizes = {"bytes_up_per_update": total // 2, "bytes_down_per_update": total // 2, "bytes": total}
    return {"data": "d", "method": method, "seed": seed, "knn": knn, **sizes}


def test_the_table_pairs_seeds():
    rows = [row("whole", 0, 70.0, 8000), row("whole", 1, 60.0, 8000), row("random", 0, 50.0, 0)]
    rows += [row("int8", 0, 71.0, 2000), row("int8", 1, 60.0, 2000)]
    lines = table({"rows": rows}).splitlines()
    assert lines[3] == "| d | whole | 65.0 ± 7.1 | +0.0 ± 0.0 | 4,000 | 4,000 | 1.0 |"
    assert lines[2] == "| d | random | 50.0 | -20.0 | – | – | – |"
    assert lines[4] == "| d | int8 | 65.5 ± 7.8 | +0.5 ± 0.7 | 1,000 | 1,000 | 4.0 |"


def test_the_page_shows_what_was_measured():
    assert table(json.loads(RESULT.read_text())) in (ROOT / "docs" / "federated_codecs.md").read_text()


@pytest.mark.slow
def test_a_run_writes_rows_that_can_be_continued(tmp_path):
    try:
        load_shared("har_phone_watch", device="phone")
    except DataError as error:
        pytest.skip(str(error))
    out = tmp_path / "out.json"
    options = {"data": ["har_phone_watch"], "methods": ["random", "topk:0.25+int8, no feedback"], "seeds": [0]}
    result = run(**options, out=str(out), rounds=2)
    assert [r["method"] for r in result["rows"]] == options["methods"]
    assert result["rows"][1]["failures"] == 0
    assert result["rows"][1]["bytes_up_per_update"] < 50_000 < 4 * result["rows"][1]["parameters"]
    assert run(**options, out=str(out), rounds=2)["rows"] == result["rows"]
    with pytest.raises(ConfigError, match="other settings"):
        run(**options, out=str(out), rounds=3)
