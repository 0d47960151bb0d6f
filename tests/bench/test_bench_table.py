from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from edgessl.bench.step.table import step_table


def row(backend: str, threads: int, **measured: Any) -> dict[str, Any]:
    """Made-up figures."""
    names = ("median_ms", "ratio_to_torch", "peak_rss_mb", "import_s", "compile_s", "error")
    head = {"encoder": "ds_cnn_s", "backend": backend, "threads": threads, "installed_mb": 123.5}
    return {**head, **dict.fromkeys(names), **measured}


def test_figures_failures_and_warnings_are_all_shown() -> None:
    result = {
        "machine": {"cpu": "AMD EPYC", "cores": 2},
        "settings": {"batch_size": 32},
        "warnings": ["load 4.0 on 2 cores"],
        "rows": [
            row("onnxruntime", 1, median_ms=12.34, ratio_to_torch=1.255, peak_rss_mb=113.4, import_s=0.12),
            row("torch_compile", 1, error="no compiler [/usr/bin/g++]"),
            row("onnxruntime", 2, median_ms=9.5),
        ],
    }
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(step_table(result))
    text = console.export_text()
    for expected in (
        "12.3",
        "1.25",
        "113",
        "0.12",
        "failed",
        "load 4.0 on 2 cores",
        "AMD EPYC, 2 cores, batches of 32",
    ):
        assert expected in text
    assert "ds_cnn_s, torch_compile, 1 threads: no compiler [/usr/bin/g++]" in text
    assert text.count("ds_cnn_s") == 3
