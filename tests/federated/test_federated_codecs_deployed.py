"""Codecs, noise and masks on the real wire: a SuperLink, lean nodes as processes, TLS and keys."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from real_fleet import EDGESSL, Fleet

from federated import FederationResult, federate_in_process

pytestmark = pytest.mark.deploy

DEVICES, STEPS = 3, 10


def test_runs_with_codecs_masks_and_noise_on_one_fleet(tmp_path, bundle_path, bundle, samples):
    streams = [samples(100 * (i + 1), seed=i) for i in range(DEVICES)]
    plain = federate_in_process(bundle, streams, rounds=2, local_steps=STEPS, workdir=tmp_path / "here")
    with Fleet(tmp_path / "fleet", bundle_path, devices=DEVICES) as fleet:
        fleet.ready(fleet.serve())
        for i, stream in enumerate(streams):
            np.save(tmp_path / f"s{i}.npy", stream)
            path = str(tmp_path / f"s{i}.npy")
            fleet.join(i, "--stream", path, "--local-steps", str(STEPS), "--poll", "0.2", "2")

        def run(name, *options):
            where = ("--server", str(fleet.server), "--wait", "--json", "--name", name, "--min-nodes", str(DEVICES))
            command = [*EDGESSL, "federate", "run", str(bundle_path), *where, "--rounds", "2", *options]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if done.returncode:
                return done.stderr, None
            result = FederationResult.load(fleet.server / name / "theta.safetensors", bundle.digest)
            return json.loads(done.stdout)["rounds"], result.theta

        records, exact = run("delta", "--codec", "delta", "--downlink", "delta")
        np.testing.assert_allclose(exact, plain.theta, atol=1e-6)  # lossless, and devices met for the first time
        assert [record["failures"] for record in records] == [{}, {}]
        records, _ = run("sparse", "--codec", "topk:0.3+int8", "--downlink", "int8")
        assert [(record["clients"], record["failures"]) for record in records] == [(DEVICES, {})] * 2
        records, masked = run("masked", "--secure", "--downlink", "delta")
        assert [(record["clients"], record["failures"]) for record in records] == [(DEVICES, {})] * 2
        assert np.isfinite(masked).all()
        noise = ("noise_multiplier=1.0", "clipping_norm=0.5", "delta=1e-5", "max_epsilon=5", "cohort=3")
        reason, _ = run("private", "--secure", *(part for value in noise for part in ("--central", value)))
        assert "epsilon 4.729 of 5 is spent" in reason
        reason, _ = run("refused", "--secure", "--codec", "int8")
        assert "masked updates are sums of whole vectors" in reason
