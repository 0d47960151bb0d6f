from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgessl.report import demo_report


def accuracy(*seeds: float) -> dict[str, Any]:
    return {"mean": float(np.mean(seeds)), "std": float(np.std(seeds)), "seeds": list(seeds)}


def required_data() -> dict[str, Any]:
    """Made-up figures: what every demo reports."""
    return {
        "knn": {
            "random": accuracy(0.612, 0.598, 0.621),
            "pretrained": accuracy(0.914, 0.921, 0.909),
            "int8": accuracy(0.911, 0.919, 0.909),
        },
        "drift": {
            "frozen_new": accuracy(0.701, 0.687, 0.712),
            "adapted_new": accuracy(0.823, 0.811, 0.836),
            "frozen_old": accuracy(0.914, 0.921, 0.909),
            "adapted_old": accuracy(0.907, 0.918, 0.901),
        },
        "federated": {"local_mean": accuracy(0.779, 0.771, 0.784), "federated": accuracy(0.838, 0.829, 0.846)},
        "seconds": {"pretrain": 48.2, "export": 21.4, "adapt": 33.8, "federated": 61.0, "total": 166.9},
    }


def full_data() -> dict[str, Any]:
    """The same with every optional part."""
    rng = np.random.default_rng(0)
    steps = np.arange(200)

    def phase(start: float, end: float, n: int) -> dict[str, list[float]]:
        t = np.linspace(0, 1, n)
        loss = end + (start - end) * np.exp(-4 * t) + 0.3 * rng.standard_normal(n)
        return {
            "step": list(range(n)),
            "loss": loss.tolist(),
            "embedding_std": (0.35 + 0.5 * (1 - np.exp(-5 * t)) + 0.01 * rng.standard_normal(n)).tolist(),
            "effective_rank": (3 + 9 * t + 0.2 * rng.standard_normal(n)).tolist(),
        }

    def clusters(spread: float) -> dict[str, Any]:
        centres = 4 * np.stack([np.cos(np.arange(10) * 0.63), np.sin(np.arange(10) * 0.63)], 1)
        labels = np.repeat(np.arange(10), 40)
        return {
            "points": (centres[labels] + spread * rng.standard_normal((400, 2))).tolist(),
            "labels": labels.tolist(),
        }

    y, x = np.mgrid[0:16, 0:16]
    digits = [np.exp(-((np.hypot(y - 7.5, x - 7.5) - 3 - 0.3 * i) ** 2) / 2) for i in range(10)]
    return {
        **required_data(),
        "protocol": {
            "Pretrain": "A ds_cnn_s encoder learns from 1,400 unlabelled digits with VICReg for 600 steps.",
            "Export": "Encoder, int8 encoder and training step become one bundle; torch is the judge.",
            "Drift": "The stream changes: contrast is halved and the digits are rotated by 25 degrees. "
            "The device goes on learning from the changed stream, without labels.",
            "Federate": "Five devices with different classes share updates of one vector over ten rounds.",
        },
        "curves": {
            "pretrain": phase(25, 13, len(steps)),
            "adapt": phase(16, 12, 120),
            "federated": {"round": list(range(1, 11)), "loss": (12 + 6 * np.exp(-np.arange(10) / 3)).tolist()},
        },
        "samples": {"before": digits, "after": [0.25 + 0.5 * np.rot90(d * (x > 6)) for d in digits]},
        "embedding": {"before": clusters(1.3), "after": clusters(0.6)},
        "bundle": {
            "manifest.json": 14210,
            "encoder.onnx": 61230,
            "encoder.int8.onnx": 58010,
            "train.onnx": 182400,
            "state.safetensors": 472000,
        },
        "parity": {
            "step": {"theta": 3.1e-7, "momentum": 8.4e-6},
            "encoder": {"relative_error": 2.2e-7},
            "int8": {"cosine": 0.9973, "knn_agreement": 0.981},
        },
        "machine": {"cpu": "AMD EPYC", "cores": 2, "memory_gb": 25.3, "system": "Linux 6.18", "architecture": "x86_64"},
        "versions": {
            "python": "3.11.7",
            "edgessl": "0.1.0",
            "numpy": "2.4.6",
            "onnxruntime": "1.31.1",
            "torch": "2.13.0",
        },
        "command": "edgessl demo --seeds 3 --out runs/demo",
    }


@pytest.fixture
def required() -> dict[str, Any]:
    return required_data()


@pytest.fixture
def full() -> dict[str, Any]:
    return full_data()


@pytest.fixture(scope="session")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The HTML of the full data, drawn once."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    demo_report(full_data(), path)
    return path.read_text(encoding="utf-8")
