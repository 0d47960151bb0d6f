"""Benchmarks: each returns one JSON object with the machine, the versions and its rows.

    result = load_bench("step")(encoders=["ds_cnn_s"])

To add one: a function that returns {"bench", "machine", "versions", "settings", "rows"}, and one line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from edgessl.errors import ConfigError

# name -> "module:function"; nothing is imported before it is asked for
BENCHES: dict[str, str] = {
    "step": "edgessl.bench.step.run:run",
    "objectives": "edgessl.bench.objectives.run:run",
    "quantize": "edgessl.bench.quantize.run:run",
    "neuro": "edgessl.bench.spiking.neuro:run",
    "pretrain": "edgessl.bench.pretrain.run:run",
    "gpu": "edgessl.bench.gpu.run:run",
    "device": "edgessl.bench.device.run:run",
    "latent": "edgessl.bench.device.latent:run",
    "settle": "edgessl.bench.device.settle:run",
    "faults": "edgessl.bench.faults.run:run",
    "attacks": "edgessl.bench.faults.attacks:run",
    "federated": "edgessl.bench.federated.run:run",
    "federated_compression": "edgessl.bench.federated.compression:run",
    "federated_order": "edgessl.bench.federated.order:run",
    "federated_continual": "edgessl.bench.federated.continual:run",
    "federated_privacy": "edgessl.bench.federated.privacy:run",
    "federated_node": "edgessl.bench.federated.node:run",
    "drift": "edgessl.bench.drift.run:run",
    "spiking": "edgessl.bench.spiking.run:run",
    "spiking_continual": "edgessl.bench.spiking.continual:run",
    "spiking_energy": "edgessl.bench.spiking.energy:run",
}


def load_bench(name: str) -> Callable[..., dict[str, Any]]:
    """The function of the bench registered under `name`.

    Raises:
        ConfigError: no such bench.
    """
    if name not in BENCHES:
        raise ConfigError(f"unknown bench {name!r}; choose one of {', '.join(BENCHES)}")
    module, function = BENCHES[name].split(":")
    found: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), function)
    return found
