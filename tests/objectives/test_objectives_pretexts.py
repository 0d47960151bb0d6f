"""Rotation, jigsaw, relative position and colours: the tasks themselves, against numpy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from objective_trial import N, Trial

from edgessl.encoders import build_encoder
from edgessl.errors import ConfigError
from edgessl.objectives import build_objective
from edgessl.objectives.decoders import classifier
from edgessl.objectives.jigsaw import distant_orders, shuffle_tiles
from edgessl.objectives.relative_position import NEIGHBOURS, enlarged_patch
from edgessl.objectives.rotation import quarter_turns

torch.set_num_threads(1)

CLASSES = {"rotation": 4, "jigsaw": 24, "relative_position": 8}


def trial_of(name: str, **options: int) -> Trial:
    channels = 3 if name == "colorization" else 1
    return Trial(name, build_encoder("ds_cnn_s", (channels, 12, 12)), **options)


@pytest.mark.parametrize("name", CLASSES)
def test_an_ignorant_classifier_costs_the_logarithm_of_the_classes(name: str) -> None:
    trial = trial_of(name, hidden=8)
    with torch.no_grad():
        last = trial.parts["classifier"][-1]
        last.weight.zero_()
        last.bias.zero_()
    assert float(trial.loss().value.detach()) == pytest.approx(math.log(CLASSES[name]), rel=1e-6)


@pytest.mark.parametrize("name", CLASSES)
def test_losses_are_torchs_cross_entropy(name: str) -> None:
    trial = trial_of(name, hidden=8)
    value = trial.loss().value
    logits = trial.outputs("classifier")[0]
    if name == "rotation":
        labels = torch.arange(4).repeat_interleave(N)
    else:
        labels = (trial.noise[:, 0] * CLASSES[name]).long()
        assert len(labels.unique()) > 1
    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(logits, labels))


def test_classifier_layers() -> None:
    layers = classifier((6, 5, 3))
    assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Linear"]
    assert layers(torch.randn(2, 6)).shape == (2, 3)


# --- rotation --------------------------------------------------------------------------------------------------------


def test_quarter_turns_are_numpys() -> None:
    x = torch.randn(3, 2, 5, 5)
    turned = quarter_turns(x).reshape(4, 3, 2, 5, 5)
    for k in range(4):
        np.testing.assert_array_equal(turned[k].numpy(), np.rot90(x.numpy(), k, axes=(2, 3)))
        assert torch.equal(turned[k], torch.rot90(x, k, (2, 3)))


def test_rotation_watches_the_upright_images() -> None:
    trial = trial_of("rotation", hidden=8)
    torch.testing.assert_close(trial.loss().embeddings, trial.parts["encoder"](trial.sample))


# --- jigsaw ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "size"), [(2, (8, 6)), (3, (9, 12)), (2, (7, 9)), (3, (11, 10))])
def test_tiles_go_where_the_order_says(grid: int, size: tuple[int, int]) -> None:
    x = torch.randn(6, 2, *size)
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(grid * grid) for _ in range(6)])
    found = shuffle_tiles(x, torch.from_numpy(orders).float(), grid).numpy()
    h, w = size[0] // grid, size[1] // grid
    expected = x.numpy().copy()  # what is left over stays
    for sample, place in itertools.product(range(6), range(grid * grid)):
        (r, c), (from_r, from_c) = divmod(place, grid), divmod(int(orders[sample, place]), grid)
        tile = x[sample, :, from_r * h : (from_r + 1) * h, from_c * w : (from_c + 1) * w]
        expected[sample, :, r * h : (r + 1) * h, c * w : (c + 1) * w] = tile
    np.testing.assert_array_equal(found, expected)
    # the inverse order puts everything back
    inverse = torch.from_numpy(np.argsort(orders, axis=1)).float()
    assert torch.equal(shuffle_tiles(torch.from_numpy(found), inverse, grid), x)


def test_four_tiles_have_all_their_orders() -> None:
    orders = distant_orders(4, 24)
    assert {tuple(order) for order in orders} == set(itertools.permutations(range(4)))
    assert tuple(orders[0]) == (0, 1, 2, 3)


def test_nine_tiles_have_distant_ones() -> None:
    orders = distant_orders(9, 30)
    assert orders.shape == (30, 9)
    assert (np.sort(orders, axis=1) == np.arange(9)).all()
    distances = np.array([(a != b).sum() for a, b in itertools.combinations(orders, 2)])
    # the first nine can differ everywhere (a Latin square)
    assert (np.array([(a != b).sum() for a, b in itertools.combinations(orders[:9], 2)]) == 9).all()
    # 9 x 8 orders at most can differ pairwise in 8 tiles or more; a greedy choice of 30 comes close
    assert distances.min() >= 7
    assert distances.mean() > 8


def test_jigsaw_shows_the_shuffled_view() -> None:
    trial = trial_of("jigsaw", hidden=8)
    trial.loss()
    (shown,) = next(arguments for part, arguments, _ in trial.calls if part == "encoder")
    orders = distant_orders(4, 24)[(trial.noise[:, 0] * 24).long().numpy()]
    for sample, order in enumerate(orders):
        for place, (source_r, source_c) in enumerate(divmod(int(tile), 2) for tile in order):
            r, c = divmod(place, 2)
            torch.testing.assert_close(
                shown[sample, :, 6 * r : 6 * r + 6, 6 * c : 6 * c + 6],
                trial.sample[sample, :, 6 * source_r : 6 * source_r + 6, 6 * source_c : 6 * source_c + 6],
            )


# --- relative position -----------------------------------------------------------------------------------------------


def test_there_are_eight_neighbours() -> None:
    assert set(NEIGHBOURS) == set(itertools.product(range(3), repeat=2)) - {(1, 1)}


@pytest.mark.parametrize("jitter", [(0.0, 0.0), (0.999, 0.0), (0.3, 0.8)])
def test_a_patch_is_a_piece_of_its_cell_enlarged(jitter: tuple[float, float]) -> None:
    size, side, length = 24, 8.0, 6.0
    # brightness is the place itself, so what a patch shows says where it was read
    rows, columns = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    x = torch.stack([rows, columns]).unsqueeze(0)
    for row, column in itertools.product(range(3), repeat=2):
        patch = enlarged_patch(x, torch.tensor([[float(row), float(column)]]), torch.tensor([jitter]))[0]
        assert patch.shape == (2, size, size)
        top, left = row * side + jitter[0] * (side - length), column * side + jitter[1] * (side - length)
        # linear between the first and last pixel of the patch, whose edges repeat
        place = np.clip((np.arange(size) + 0.5) * length / size, 0.5, length - 0.5)
        np.testing.assert_allclose(patch[0, :, 0], top + place, atol=1e-4)
        np.testing.assert_allclose(patch[1, 0], left + place, atol=1e-4)


def test_patches_never_touch() -> None:
    x = torch.arange(24.0).expand(1, 1, 24, 24)
    for jitter in (0.0, 0.5, 0.999):
        left = enlarged_patch(x, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.999]]))
        middle = enlarged_patch(x, torch.tensor([[1.0, 1.0]]), torch.tensor([[0.5, jitter]]))
        assert left.max() < middle.min()


def test_relative_position_shows_the_middle_and_the_neighbour() -> None:
    trial = trial_of("relative_position", hidden=8)
    loss = trial.loss()
    (shown,) = next(arguments for part, arguments, _ in trial.calls if part == "encoder")
    assert shown.shape == (2 * N, 1, 12, 12)
    middle = enlarged_patch(trial.sample, torch.ones(N, 2), trial.noise[:, 1:3])
    cells = torch.tensor([NEIGHBOURS[int(u * 8)] for u in trial.noise[:, 0]], dtype=torch.float32)
    other = enlarged_patch(trial.sample, cells, trial.noise[:, 3:])
    torch.testing.assert_close(shown, torch.cat([middle, other]))
    assert loss.embeddings.shape[0] == N


# --- colours ---------------------------------------------------------------------------------------------------------


def test_colorization_sees_grey_and_predicts_what_is_missing() -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    encoder = build_encoder("ds_cnn_s", (3, 12, 12), mean=mean, std=std)
    trial = Trial("colorization", encoder, decoder_width=8)
    x = torch.rand(N, 3, 12, 12)
    value = float(trial.loss(x).value.detach())
    (shown,) = next(arguments for part, arguments, _ in trial.calls if part == "encoder.features")
    grey = (x.double().numpy() * np.reshape([0.299, 0.587, 0.114], (3, 1, 1))).sum(1, keepdims=True)
    np.testing.assert_allclose(shown.numpy(), np.repeat(grey, 3, axis=1), atol=1e-6)
    target = (x.double().numpy() - grey) / np.reshape(std, (3, 1, 1))
    error = np.abs(trial.outputs("decoder")[0].detach().double().numpy() - target)
    assert value == pytest.approx(np.where(error < 0.5, error**2, error - 0.25).mean(), rel=1e-5)


def test_a_grey_image_has_nothing_to_predict() -> None:
    trial = trial_of("colorization", decoder_width=8)
    with torch.no_grad():
        trial.parts["decoder"].leave.weight.zero_()
        trial.parts["decoder"].leave.bias.zero_()
    assert float(trial.loss(torch.rand(N, 1, 12, 12).expand(N, 3, 12, 12)).value.detach()) < 1e-6
    assert float(trial.loss(torch.rand(N, 3, 12, 12)).value.detach()) > 1e-2


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "encoder", "shape", "message"),
    [
        ("rotation", "ds_cnn_s", (1, 12, 10), r"expected square images \(C, H, H\), found samples \(1, 12, 10\)"),
        ("jigsaw", "cnn1d", (3, 32), r"expected \(C, H, W\) of 2 pixels or more, found \(3, 32\)"),
        ("relative_position", "ds_cnn_s", (1, 8, 12), r"expected \(C, H, W\) of 9 pixels or more, found \(1, 8, 12\)"),
        ("colorization", "ds_cnn_s", (1, 12, 12), r"expected RGB images \(3, H, W\), found samples \(1, 12, 12\)"),
    ],
)
def test_samples_that_do_not_fit_are_refused(name: str, encoder: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_objective(name).heads(build_encoder(encoder, shape), "layer")


def test_bad_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="option 'grid' takes 2 or 3, found 4"):
        build_objective("jigsaw", grid=4)
    with pytest.raises(ConfigError, match="option 'orders' takes 2 to 1000, found 1"):
        build_objective("jigsaw", grid=3, orders=1)
