"""`edgessl inspect --target tensorrt`: the verdict on each graph, for people and for machines."""

from __future__ import annotations

import json


def test_the_verdict_on_a_bundle(run, exported) -> None:
    said = json.loads(run("inspect", exported.bundle, "--target", "tensorrt", "--json").stdout)
    assert set(said) == {"target", "legal", "graphs", "violations"}
    assert said["target"] == "tensorrt"
    assert set(said["graphs"]) == {"train", "encoder"}  # not the int8 form for ONNX Runtime's CPU
    assert said["graphs"]["encoder"] is True
    assert said["legal"] is all(said["graphs"].values())
    assert said["legal"] is (not said["violations"])
    assert all(set(v) == {"graph", "node", "rule", "message"} for v in said["violations"])
    assert {v["graph"] for v in said["violations"]} == {key for key, legal in said["graphs"].items() if not legal}
    kept = exported.said["parity"]["tensorrt"]  # the gate's figures say the same
    assert {key: count == 0 for key, count in kept.items()} == said["graphs"]


def test_the_verdict_in_words(run, exported) -> None:
    text = run("inspect", exported.bundle, "--target", "tensorrt").stdout
    assert "encoder: legal in TensorRT; needs a profile for x" in text
    assert "train: " in text
