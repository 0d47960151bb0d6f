"""A federation of learners behind a cut: what travels is theta of the tail, and it is what plain numpy averages."""

from __future__ import annotations

from pathlib import Path

import latent_bundle
import numpy as np

from edgessl.device import Learner, pack
from federated import federate_in_process

MEMORY = 4096


def test_a_round_averages_the_tails(tmp_path: Path) -> None:
    bundle = pack(tmp_path / "cut.edgessl", latent_bundle.build_manifest(), latent_bundle.build_members())
    streams = [latent_bundle.make_samples(100, seed=1), latent_bundle.make_samples(300, seed=2)]
    tails = []
    for i, stream in enumerate(streams):
        with Learner.open(bundle, tmp_path / f"hand-{i}", memory_bytes=MEMORY, seed=i) as learner:
            learner.observe(stream)
            assert learner.learn(max_steps=8).steps == 8
            tails.append(learner.theta.astype(np.float64))
    result = federate_in_process(
        bundle, streams, rounds=1, local_steps=8, workdir=tmp_path / "work", memory_bytes=MEMORY
    )
    assert result.theta.shape == (bundle.manifest.theta_size,)
    np.testing.assert_allclose(result.theta, np.average(tails, axis=0, weights=[100, 300]), atol=1e-6, rtol=0)
    assert np.abs(result.theta - bundle.state()["theta"]).max() > 1e-3
