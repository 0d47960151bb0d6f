"""The tables of the quantize bench, on rows whose figures are known."""

from __future__ import annotations

from edgessl.bench.quantize.page import accuracy_table, aware_table, speed_table


def row(seed: int, method: str, knn: float, trained: str = "float") -> dict[str, object]:
    figures = {"cosine_mean": 0.99, "neighbor_overlap": 0.9, "knn": knn, "linear": 0.5}
    return {"case": "c", "trained": trained, "method": method, "seed": seed, **figures}


def test_differences_are_to_the_float_encoder_of_the_same_seed() -> None:
    rows = [row(0, "float", 0.80), row(0, "minmax", 0.79), row(1, "float", 0.70), row(1, "minmax", 0.71)]
    lines = accuracy_table(rows).splitlines()
    assert len(lines) == 4
    assert "| 75.0 ± 7.1 |  |" in lines[2]
    assert "| 75.0 ± 5.7 | +0.00 ± 1.41 |" in lines[3]


def test_rounding_while_training_is_compared_with_rounding_afterwards() -> None:
    pairs = [(0.80, 0.82), (0.70, 0.71)]
    rows = [row(i, "4 bits, exact", knn) for i, (knn, _) in enumerate(pairs)]
    rows += [row(i, "4 bits, exact", knn, "aware 4") for i, (_, knn) in enumerate(pairs)]
    lines = aware_table([*rows, row(0, "8 bits, exact", 0.9), row(0, "8 bits, exact", 0.9, "aware 8")]).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["8", "4"]
    assert "| 4 | 75.0 ± 7.1 | 76.5 ± 7.8 | +1.50 ± 0.71 | 50.0 ± 0.0 |" in lines[3]


def test_forms_are_compared_with_every_reference() -> None:
    faster = {"torch eager": [3.0, 2.0], "fp32": [1.5, 1.25]}
    rows = [{"encoder": "e", "form": "int8", "bytes": 2500, "ms_1": 0.1, "ms_32": 1.0, "faster_than": faster}]
    line = speed_table(rows).splitlines()[2]
    assert line == "| e | int8 | 2 | 0.100 | 1.00 |  | 1.50 / 1.25 |  | 3.00 / 2.00 |"
    assert "cannot load" in speed_table([{"encoder": "e", "form": "f", "error": "cannot load"}])
