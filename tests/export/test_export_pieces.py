"""A batch in pieces: the same step, and pieces of the stated size."""

from __future__ import annotations

import pytest
import torch

from edgessl.encoders import build_encoder
from edgessl.objectives import build_objective
from edgessl.optim import build_optimizer
from edgessl.step import TrainStep, hyper_tensors
from edgessl.views import default_views
from export.pieces import HALVED_FROM, PIECE_BYTES, SIGNALS_HALVED_FROM, in_pieces, largest_activation, piece_rows


@pytest.mark.parametrize(
    ("encoder", "shape", "values"),
    [
        ("resnet8", (3, 32, 32), 16 * 32 * 32),  # any of its first maps
        ("vit", (3, 32, 32), 64 * 384),  # the MLP's hidden layer
        ("cnn1d", (6, 128), 32 * 64),
    ],
)
def test_a_piece_holds_as_many_samples_as_fit(encoder: str, shape: tuple[int, ...], values: int) -> None:
    network = build_encoder(encoder, shape)
    assert largest_activation(network) == values
    rows = piece_rows(network, theta_size=1, batch_size=1024)
    assert rows is not None
    assert rows * values * 4 <= PIECE_BYTES < 2 * rows * values * 4
    assert (
        piece_rows(network, theta_size=PIECE_BYTES, batch_size=1024) == 4 * rows
    )  # a gradient of theta's size per piece has its price


def test_batch_norm_sees_the_whole_batch() -> None:
    assert piece_rows(build_encoder("cnn1d", (6, 128), norm="batch"), 1, 32) is None


@pytest.mark.parametrize(
    ("encoder", "shape", "from_bytes"),
    [("cnn1d", (6, 128), SIGNALS_HALVED_FROM), ("resnet8", (3, 32, 32), HALVED_FROM)],
)
def test_a_batch_too_small_to_halve_stays_whole(encoder: str, shape: tuple[int, ...], from_bytes: int) -> None:
    network = build_encoder(encoder, shape)
    least = from_bytes // (4 * largest_activation(network))
    assert piece_rows(network, 1, least - 1) is None
    assert piece_rows(network, 1, least) is not None


def test_pieces_make_the_same_step() -> None:
    step = TrainStep(
        build_encoder("cnn1d", (2, 16)),
        build_objective("vicreg"),
        build_optimizer("sgd"),
        default_views("signal", (2, 16)),
    )
    state, hyper = step.initial_state(), hyper_tensors(step.hyper)
    torch.manual_seed(0)
    batch, noise = torch.randn(4, 2, 16), torch.rand(step.noise_shape(4))
    taken: list[int] = []
    handle = step.parts.encoder.register_forward_hook(lambda module, inputs, out: taken.append(len(inputs[0])))  # type: ignore[attr-defined]
    whole, _ = step(state, batch, noise, hyper)
    with in_pieces(step, 3):
        pieces, _ = step(state, batch, noise, hyper)
    handle.remove()
    assert taken == [8, 2, 2, 2, 2]
    assert step.parts.piece_rows is None
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-4, atol=1e-6)
