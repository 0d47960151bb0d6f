"""What a federation learned, as a bundle again: the same graphs with the fleet's weights."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgessl.device import Bundle, EncoderRunner, SessionProfile, pack
from edgessl.device.requantize.encoder import FollowingEncoder
from edgessl.device.requantize.forms import INT8_GRAPH, TAIL
from edgessl.device.requantize.plan import PLAN_FILE, RANGES
from edgessl.device.storage import tensors
from edgessl.errors import FederationError
from federated.lineage import layout_hash
from federated.message import version_of

if TYPE_CHECKING:
    from federated.message import Float
    from federated.result import FederationResult

STATE = "state.safetensors"
GRAPHS = ("train", "encoder", "backbone", "importance", "consolidate")  # weights are inputs, or frozen
COPIES = ("teacher", "average", "slow", "anchor", "fleet")  # slots that are the network, as it was or follows
MOMENTS = ("momentum", "first_moment", "second_moment", "updates")  # the optimizer's


def release(
    bundle: Bundle,
    result: FederationResult,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    samples: Float | None = None,
) -> Bundle:
    """Write a bundle with the weights of `result` to `path`; devices move to it with `edgessl.device.update.migrate`.

    Slots that are copies of the network start as copies of the new weights, the optimizer's moments at zero; queues,
    importances and the like are the old bundle's. Graphs that hold the old weights (the int8 encoder, TensorRT's) are
    left out; with unlabelled `samples` (N, *shape), 16 or more, the int8 encoder of a bundle that was exported with
    --requantize is made anew, behind a cut the int8 tail. The manifest's provenance says under "federation" which
    bundle and which version of the fleet's weights it comes from; a signature is not taken over. FederationError when
    the weights do not fit, embed to numbers that are not finite, or the int8 encoder does not agree with the float one;
    BundleError when it cannot be made anew.
    """
    manifest, state = bundle.manifest, bundle.state()
    if result.theta.shape != state["theta"].shape or not np.isfinite(result.theta).all():
        found = f"{result.theta.dtype}{list(result.theta.shape)}"
        raise FederationError(f"weights {found} do not fit the bundle's {list(state['theta'].shape)}")
    probe = np.random.default_rng(0).normal(size=(4, *manifest.learned.shape)).astype(np.float32)
    if not manifest.learned.vocabulary and not np.isfinite(EncoderRunner(bundle).embed(result.theta, probe)).all():
        raise FederationError("the federation's weights embed random samples to NaN or infinity; nothing was written")
    for slot in state:
        if slot == "theta" or slot in COPIES:
            state[slot] = result.theta
        elif slot in MOMENTS:
            state[slot] = np.zeros_like(state[slot])
    following = TAIL if manifest.latent else INT8_GRAPH
    kept = (*GRAPHS, following, RANGES) if samples is not None else GRAPHS
    graphs = {key: graph for key, graph in manifest.graphs.items() if key in kept}
    members = {graph.file: bundle.read(graph.file) for graph in graphs.values()}
    members[STATE] = tensors.dumps(state)
    parity = {key: figure for key, figure in manifest.parity.items() if key in GRAPHS or key not in manifest.graphs}
    if samples is not None:
        encoder, backbone = FollowingEncoder(bundle), bundle.backbone(SessionProfile())
        followed = encoder.follow(result.theta, samples if backbone is None else backbone.latents(samples))
        if not followed.accepted:
            raise FederationError(f"the int8 encoder cannot follow: {followed.reason}; release without samples")
        members[graphs[following].file], members[PLAN_FILE] = encoder.model, bundle.read(PLAN_FILE)
        parity[following] = {k: getattr(followed, k) for k in ("cosine_mean", "cosine_min", "neighbor_overlap")}
    released = replace(
        manifest,
        name=name or manifest.name,
        graphs=graphs,
        parity=parity,
        provenance={**manifest.provenance, "federation": _lineage(bundle, result)},
    )
    return pack(path, released, members)


def _lineage(bundle: Bundle, result: FederationResult) -> dict[str, Any]:
    """Which bundle, which version, after how many rounds; the versions before it are in the round log."""
    version = version_of(result.theta)
    made = [record for record in result.rounds if record.get("version") == version]
    facts: dict[str, Any] = (
        {key: made[-1][key] for key in ("parent", "branch", "round", "clients") if key in made[-1]} if made else {}
    )
    return {
        "bundle": bundle.digest,
        "layout": layout_hash(bundle.manifest.parameters),
        "version": version,
        "rounds": len(result.rounds),
        **facts,
    }
