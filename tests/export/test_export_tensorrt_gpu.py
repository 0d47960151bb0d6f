"""Every door that opens here gives what ONNX Runtime gives on the CPU: `make test-gpu`.

Doors without their packages are skipped with what they say.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorrt_cases as cases
from onnx import ModelProto

from edgessl.errors import ConfigError, MissingDependencyError
from export.tensorrt.builder import EngineSettings, build_plan
from export.tensorrt.doors import Door, open_door, relative_errors
from export.tensorrt.driver import Driver
from export.tensorrt.library import load_library

pytestmark = pytest.mark.gpu
GRAPHS = (
    "convolution with weights from an input",
    "one-dimensional convolution",
    "layer norm, one output",
    "instance norm, gains from an input",
    "symmetric int8, float bias",
    "bilinear resize",
    "scatter",
    "einsum",
)


def feeds_of(model: ModelProto, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {
        value.name: [d.dim_value if d.HasField("dim_value") else rows for d in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def door_to(model: ModelProto, name: str) -> Door:
    data = model.SerializeToString()
    try:
        if name in ("tensorrt", "tensorrt_rtx"):
            library = load_library(name)  # type: ignore[arg-type]
            return open_door("engine", build_plan(library, data, EngineSettings(batch=(1, 4, 8))), library=library)
        return open_door(name, data)  # type: ignore[arg-type]
    except (MissingDependencyError, ConfigError) as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", ["cuda", "rtx", "tensorrt", "tensorrt_rtx"])
def test_a_door_gives_what_the_cpu_gives(name: str, graph: str) -> None:
    model = cases.LEGAL[graph]
    with open_door("cpu", model.SerializeToString()) as reference, door_to(model, name) as door:
        for rows in (4, 1, 8):
            feeds = feeds_of(model, rows)
            errors = relative_errors(door.run(feeds), reference.run(feeds))
            assert max(errors.values()) < (2e-2 if "int8" in graph else 1e-4), errors
        door.resident(feeds)()


def test_the_driver_copies_what_it_was_given() -> None:
    with Driver() as driver:
        array = np.random.default_rng(0).random(1000, np.float32)
        back = np.empty_like(array)
        address = driver.allocate(array.nbytes)
        driver.upload(address, array)
        driver.download(back, address)
        driver.synchronize()
        driver.free(address)
        np.testing.assert_array_equal(back, array)
        assert driver.compute_capability() >= (5, 0)
        assert driver.version() >= 11000
