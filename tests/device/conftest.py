"""The small hand-written bundle, as a file and opened."""

from pathlib import Path

import linear_bundle
import pytest
from linear_bundle import Kit

from edgessl.device import Bundle, pack


@pytest.fixture(scope="session")
def kit() -> Kit:
    members = linear_bundle.build_members()
    return Kit(
        linear_bundle.build_manifest(),
        members,
        linear_bundle.HYPER,
        linear_bundle.make_samples,
        linear_bundle.reference_step,
        linear_bundle.ENCODER,
        linear_bundle.TRAIN,
        linear_bundle.build_graph,
    )


@pytest.fixture(scope="session")
def bundle_path(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "linear.edgessl"
    pack(path, kit.manifest, kit.members)
    return path


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)
