"""Objectives on sequences, pairs and teachers: what each computes, against independent arithmetic."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from objective_cases import CASES, GRAY, PATCHES, SIGNAL, TEXT, TINY_BERT, TINY_GPT, WORDS, Case, teacher_file, tiny_cnn
from torch import Tensor
from torch.nn import functional as F

from edgessl.checkpoint import Checkpoint
from edgessl.device.bundle.specs import InputSpec
from edgessl.encoders import Encoder, build_encoder
from edgessl.errors import ConfigError, DataError
from edgessl.objectives import build_objective
from edgessl.objectives.cpc import Context
from edgessl.objectives.masked_tokens import Hide
from edgessl.objectives.predictive_coding import PredictiveCoding, generator_errors, relax, stage_name
from edgessl.objectives.temporal import neighbours, piece
from edgessl.objectives.word2vec import false_words, neighbourhood
from edgessl.optim import build_optimizer
from edgessl.recipe import build_step, parse_recipe
from edgessl.step import TrainStep, hyper_tensors
from edgessl.views import Pipeline
from export.parity import random_fields

torch.set_num_threads(1)


def step_of(objective: Any, encoder: Encoder, shape: tuple[int, ...]) -> TrainStep:
    return TrainStep(encoder, objective, build_optimizer("sgd"), Pipeline((), shape))


def batch_of(step: TrainStep, spec: InputSpec, n: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    noise = torch.rand(step.noise_shape(n), generator=torch.Generator().manual_seed(seed))
    return torch.from_numpy(random_fields(spec, n, seed)), noise


def loss_of(step: TrainStep, samples: Tensor, noise: Tensor, theta: Tensor | None = None, **hyper: float) -> float:
    state = step.initial_state()
    if theta is not None:
        state["theta"] = theta
    return float(step.gradient(state, samples, noise, hyper_tensors({**step.hyper, **hyper})).loss)


def silenced(step: TrainStep, *names: str) -> Tensor:
    """Initial theta with the named tensors at zero."""
    theta = step.initial_state()["theta"]
    entries = {entry.name: entry for entry in step.layout.entries}
    for name in names:
        theta[entries[name].offset : entries[name].offset + entries[name].size] = 0
    return theta


def test_tokens_are_hidden_as_in_bert() -> None:
    hide = Hide(vocabulary=7)
    ids = torch.full((1, 5), 3.0)
    how, what = torch.tensor([[0.0, 0.79, 0.85, 0.95, 1.2]]), torch.tensor([[0.5, 0.5, 0.999, 0.5, 0.5]])
    assert hide(ids, how, what).tolist() == [[7, 7, 6, 3, 3]]
    u = torch.rand(2, 40_000, generator=torch.Generator().manual_seed(0))
    found = hide(torch.full((1, 40_000), 3.0), u[:1] / 0.15, u[1:])
    assert float((found == 7).float().mean()) == pytest.approx(0.15 * 0.8, abs=0.01)
    assert float(((found != 7) & (found != 3)).float().mean()) == pytest.approx(0.15 * 0.1 * 6 / 7, abs=0.005)


def test_masked_tokens_is_the_cross_entropy_of_the_chosen_tokens() -> None:
    encoder = TINY_BERT(TEXT)
    step = step_of(build_objective("masked_tokens"), encoder, TEXT.shape)
    samples, noise = batch_of(step, TEXT)
    how, what = noise.chunk(2, 1)
    ids, chosen = samples.squeeze(1), how < 0.4
    hidden = torch.where(how < 0.8 * 0.4, 9.0, torch.where(how < 0.9 * 0.4, torch.floor(9 * what), ids))
    logits = step.parts.predictor(encoder.features(torch.where(chosen, hidden, ids).unsqueeze(1)))
    expected = F.cross_entropy(logits[chosen], ids[chosen].long()).detach()
    assert loss_of(step, samples, noise, mask_ratio=0.4) == pytest.approx(float(expected), rel=1e-5)
    assert loss_of(step, samples, noise, mask_ratio=0.0) == 0  # nothing chosen, nothing to divide by


def test_an_ignorant_model_costs_the_log_of_the_vocabulary() -> None:
    for name, encoder, head in (("masked_tokens", TINY_BERT, "predictor"), ("causal", TINY_GPT, "next")):
        step = step_of(build_objective(name), encoder(TEXT), TEXT.shape)
        theta = silenced(step, f"{head}.linear.weight", f"{head}.linear.bias")
        assert loss_of(step, *batch_of(step, TEXT), theta) == pytest.approx(math.log(9), rel=1e-6)


def test_causal_is_the_cross_entropy_of_the_next_token() -> None:
    encoder = TINY_GPT(TEXT)
    step = step_of(build_objective("causal"), encoder, TEXT.shape)
    samples, noise = batch_of(step, TEXT)
    logits = step.parts.next(encoder.features(samples))
    expected = F.cross_entropy(logits[:, :-1].reshape(-1, 9), samples[:, 0, 1:].reshape(-1).long()).detach()
    assert loss_of(step, samples, noise) == pytest.approx(float(expected), rel=1e-5)


def test_causal_learns_a_text_that_repeats() -> None:
    step = TrainStep(TINY_GPT(TEXT), build_objective("causal"), build_optimizer("adamw"), Pipeline((), TEXT.shape))
    text = torch.tensor([3.0, 1, 4, 1, 5])  # what follows a 1 can be told from what came before it alone
    rows = torch.stack([text.roll(-i).repeat(3)[:12] for i in range(5)]).unsqueeze(1)
    state, losses = step.initial_state(), []
    for _ in range(120):
        state, metrics = step(state, rows, torch.rand(5, 1), hyper_tensors({**step.hyper, "lr": 1e-2}))
        losses.append(float(metrics["loss"]))
    # the first token of a window that starts with a 1 is followed by 4 or 5, which nobody can know
    assert losses[-1] < 0.1
    assert losses[0] > 1.5


def test_causal_regression_of_signals() -> None:
    encoder = PATCHES(SIGNAL)
    step = step_of(build_objective("causal"), encoder, SIGNAL.shape)
    samples, noise = batch_of(step, SIGNAL)
    normal = (samples.numpy() - np.array(SIGNAL.mean)[:, None]) / np.array(SIGNAL.std)[:, None]
    theta = silenced(step, "next.linear.weight", "next.linear.bias")
    # predicting nothing costs the power of all but the first patch of 4 steps
    assert loss_of(step, samples, noise, theta) == pytest.approx((normal[:, :, 4:] ** 2).mean(), rel=1e-5)


def test_cpc_looks_back_only() -> None:
    context = Context(width=4, hidden=8, steps=2, tokenized=False)
    frames = torch.randn(2, 7, 4)
    later = frames.clone()
    later[:, 4] += 1
    before, after = context(frames), context(later)
    assert before.shape == (2, 2, 7, 4)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert ((before - after)[:, :, 4].abs().amax(-1) > 1e-6).all()
    torch.testing.assert_close(
        context.frames(torch.arange(12.0).reshape(1, 2, 2, 3))[0, :, 0], torch.tensor([1.5, 2.5, 3.5])
    )


def test_pieces_lie_in_the_window_and_near_each_other() -> None:
    u = torch.rand(5000, 2, generator=torch.Generator().manual_seed(0))
    first, second = neighbours(u, steps=32, length=0.5, reach=0.25)
    for start in (first, second):
        assert (start.min(), start.max()) == (0, 16)
        assert (start == start.floor()).all()
    assert float((first - second).abs().max()) == 8
    assert np.bincount(first.ravel().int()).min() > 200  # uniform over 17 starts: 294 each
    x = torch.randn(3, 2, 32)
    found = piece(x, torch.tensor([[0.0], [5], [16]]), 16)
    for row, start in enumerate((0, 5, 16)):
        assert torch.equal(found[row], x[row, :, start : start + 16])


def test_neighbourhood_of_words() -> None:
    assert neighbourhood(4, 1, torch.zeros(())).tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]


def test_false_words_are_drawn_by_frequency_to_the_power_of_three_quarters() -> None:
    frequency = torch.tensor([16.0, 0, 1, 81])
    u = torch.rand(20, 5000, generator=torch.Generator().manual_seed(0))
    drawn = false_words(u, frequency, places=100)
    assert drawn.shape == (20, 100, 4)
    assert (drawn.sum(2) == 50).all()
    expected = torch.tensor([8.0, 0, 1, 27]) / 36
    torch.testing.assert_close(drawn.mean((0, 1)) / 50, expected, atol=0.005, rtol=0)
    assert drawn[..., 1].sum() == 0


@pytest.mark.parametrize("name", ["skipgram", "cbow"])
def test_word2vec_equals_its_definition(name: str) -> None:
    radius, k = 2, 3
    step = step_of(build_objective(name, radius=radius, negatives=k), WORDS(TEXT), TEXT.shape)
    samples, noise = batch_of(step, TEXT)
    table, output = (
        step.parts.encoder.stages[0].embed.weight.T.detach().numpy(),
        step.parts.output.weight.detach().numpy(),
    )
    ids = samples[:, 0].int().numpy()
    share = np.bincount(ids.ravel(), minlength=9) ** 0.75
    edges = np.cumsum(share) / share.sum()

    def cost(score: float) -> float:
        return math.log1p(math.exp(-score))

    total, pairs = 0.0, 0
    for n, row in enumerate(ids):
        for place, word in enumerate(row):
            false = [
                int(np.searchsorted(edges, u, side="right")) for u in noise[n, place * k : (place + 1) * k].numpy()
            ]
            near = [q for q in range(len(row)) if 0 < abs(q - place) <= radius]
            if name == "skipgram":
                for q in near:
                    total += cost(table[word] @ output[row[q]]) + sum(cost(-table[word] @ output[f]) for f in false)
                    pairs += 1
            else:
                mean = table[row[near]].mean(0)
                total += cost(mean @ output[word]) + sum(cost(-mean @ output[f]) for f in false)
                pairs += 1
    assert loss_of(step, samples, noise) == pytest.approx(total / pairs, rel=1e-4)


def batch_norm_teacher(folder: Path) -> Checkpoint:
    recipe = parse_recipe({"encoder": {"name": "resnet8", "options": {"norm": "batch"}}, "seed": 3})
    step = build_step(recipe, GRAY)
    state = step.initial_state()
    for t in range(3):  # running statistics that differ from any batch's
        samples, noise = batch_of(step, GRAY, 8, seed=50 + t)
        state, _ = step(state, samples, noise, hyper_tensors({**step.hyper, "statistics_decay": 0.5}))
    checkpoint = Checkpoint(recipe, GRAY, 3, state, np.zeros((0, 1)), ("step",))
    checkpoint.save(folder / "teacher.safetensors")
    return checkpoint


def test_seed_asks_the_teacher_in_evaluation_mode_and_never_changes_it(tmp_path: Path) -> None:
    checkpoint = batch_norm_teacher(tmp_path)
    objective = build_objective("seed", teacher=str(tmp_path / "teacher.safetensors"), hidden=16, queue_size=10)
    step = step_of(objective, tiny_cnn(GRAY), GRAY.shape)
    state = first = step.initial_state()
    teacher = checkpoint.encoder()
    assert first["teacher"].numel() == sum(t.numel() for t in (*teacher.parameters(), *teacher.buffers()))
    seen: list[Tensor] = []
    for t in range(3):
        samples, noise = batch_of(step, GRAY, seed=t)
        state, _ = step(state, samples, noise, hyper_tensors(step.hyper))
        with torch.no_grad():
            seen.insert(0, F.normalize(teacher(samples), dim=1))
    torch.testing.assert_close(state["queue"], torch.cat(seen)[:10], rtol=1e-4, atol=1e-5)  # 12 entered, 10 stay
    assert torch.equal(state["teacher"], first["teacher"])
    teacher.train()
    with torch.no_grad():  # with the batch's own statistics the teacher would say something else
        assert (F.normalize(teacher(samples), dim=1) - state["queue"][:4]).abs().max() > 1e-2


def test_seed_brings_the_students_ranking_near_the_teachers() -> None:
    case = CASES["seed"]
    step = case.step("seed")
    state = step.initial_state()
    agreement = []
    test = torch.from_numpy(random_fields(GRAY, 40, 999))
    teacher = Checkpoint.load(teacher_file()).encoder()

    def agree() -> float:
        step.layout.load_module(step.parts, state["theta"])
        with torch.no_grad():
            a = F.normalize(step.parts.projector(step.parts.encoder(test)), dim=1)
            b = F.normalize(teacher(test), dim=1)
        off = ~torch.eye(40, dtype=torch.bool)
        return float(np.corrcoef((a @ a.T)[off], (b @ b.T)[off])[0, 1])

    agreement.append(agree())
    for t in range(80):
        samples, noise = batch_of(step, GRAY, 16, seed=t)
        state, _ = step(state, samples, noise, hyper_tensors({**step.hyper, "lr": 3e-3}))
    agreement.append(agree())
    assert agreement[1] > agreement[0] + 0.1, agreement


class Linear(torch.nn.Module):
    """A matrix over the channels of maps one step long."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oc,nct->not", self.weight, x)


class Flat(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def linear_step(steps: int) -> TrainStep:
    torch.manual_seed(1)
    stages = {"stem": Linear(torch.randn(4, 3)), "block1": Linear(torch.randn(2, 4)), "pool": Flat()}
    return step_of(PredictiveCoding(steps=steps), Encoder(stages, (3, 1)), (3, 1))


def pieces_of(step: TrainStep, flat: Tensor) -> dict[str, np.ndarray]:
    return {name: value.numpy().astype(float) for name, value in step.layout.unflatten(flat).items()}


def test_predictive_coding_learns_by_local_hebbian_products() -> None:
    step, rate, steps = linear_step(2), 0.3, 2
    state = step.initial_state()
    samples = torch.randn(5, 3, 1, generator=torch.Generator().manual_seed(2))
    hyper = hyper_tensors({**step.hyper, "inference_rate": rate})
    found = pieces_of(step, step.gradient(state, samples, torch.rand(5, 1), hyper).direction)
    given = pieces_of(step, state["theta"])
    w1, w2 = given["encoder.stages.stem.weight"], given["encoder.stages.block1.weight"]
    (u1, b1), (u2, b2) = (
        (given[f"generators.down.{i}.conv.weight"][:, :, 1], given[f"generators.down.{i}.conv.bias"]) for i in (0, 1)
    )
    r0 = samples[:, :, 0].numpy().astype(float)
    r1, r2 = r0 @ w1.T, r0 @ w1.T @ w2.T
    for _ in range(steps):
        e0, e1 = r0 - r1 @ u1.T - b1, r1 - r2 @ u2.T - b2
        r1, r2 = r1 + rate * (4 / 3 * e0 @ u1 - e1), r2 + rate * (2 / 4 * e1 @ u2)
    e0, e1 = r0 - r1 @ u1.T - b1, r1 - r2 @ u2.T - b2
    n = len(r0)
    expected = {
        "generators.down.0.conv.weight": -e0.T @ r1 / 3 / n,
        "generators.down.1.conv.weight": -e1.T @ r2 / 4 / n,
        "encoder.stages.stem.weight": -(r1 - r0 @ w1.T).T @ r0 / 4 / n,
        "encoder.stages.block1.weight": -(r2 - r1 @ w2.T).T @ r1 / 2 / n,
        "generators.down.0.conv.bias": -e0.mean(0) / 3,
        "generators.down.1.conv.bias": -e1.mean(0) / 4,
    }
    for name, product in expected.items():
        value = found[name][:, :, 1] if found[name].ndim == 3 else found[name]
        np.testing.assert_allclose(value, product, rtol=1e-4, atol=1e-6, err_msg=name)


def test_no_gradient_crosses_a_layer() -> None:
    # without relaxation the stages' guesses are their own targets: only generators have something to learn, and none
    # of their errors, large as they are, reaches a stage
    step = linear_step(0)
    found = pieces_of(
        step,
        step.gradient(
            step.initial_state(), torch.randn(5, 3, 1), torch.rand(5, 1), hyper_tensors(step.hyper)
        ).direction,
    )
    for name, gradient in found.items():
        assert (np.abs(gradient).max() > 1e-3) == name.startswith("generators"), name
        assert np.abs(gradient).max() == 0 or name.startswith("generators"), name


def test_relaxation_lowers_the_energy() -> None:
    step = CASES["predictive_coding"].step("predictive_coding")
    theta = step.initial_state()["theta"]
    network = step.parts.network(step.layout, theta)
    latents = [network("encoder.normalize", torch.from_numpy(random_fields(GRAY, 6, 0)))]
    for level in range(2):
        latents.append(network("encoder.run", latents[-1], stage_name(level), stage_name(level)).detach())
    energies = [generator_errors(network, relax(network, latents, torch.tensor(0.1), steps)) for steps in range(6)]
    for before, after in itertools.pairwise(energies):
        assert (after < before).all()


ONE = InputSpec("tokens", (1, 1), (0.0,), (1.0,), "u", 9)


@pytest.mark.parametrize(
    ("name", "options", "spec", "encoder", "message"),
    [
        ("masked_tokens", {}, TEXT, WORDS, "expected the encoder token_transformer, found stages"),
        ("masked_tokens", {}, GRAY, tiny_cnn, "expected the encoder token_transformer"),
        ("causal", {}, TEXT, TINY_BERT, "with causal = true; this encoder sees what it should predict"),
        ("causal", {}, SIGNAL, tiny_cnn, "with causal = true"),
        ("causal", {}, ONE, TINY_GPT, "one token long; nothing comes next"),
        ("skipgram", {}, TEXT, TINY_BERT, "skipgram: expected the encoder word_vectors"),
        ("cbow", {}, ONE, WORDS, "one token long, which has no neighbours"),
        ("cpc", {"steps": 20}, SIGNAL, tiny_cnn, "20 steps ahead need 21 frames, the encoder gives 16"),
        (
            "cpc",
            {},
            SIGNAL,
            lambda spec: build_encoder("signal_transformer", spec.shape, width=16, heads=2),
            "set causal = true",
        ),
        ("temporal", {}, SIGNAL, PATCHES, "expected a convolutional encoder"),
        ("temporal", {"length": 1.0}, SIGNAL, tiny_cnn, "length 1.0 and reach 0.25 are shares of a window of 32 steps"),
        ("clip", {}, GRAY, tiny_cnn, "expected the encoder 'pair'"),
        ("predictive_coding", {}, SIGNAL, PATCHES, "expected a convolutional encoder, found the stages"),
        ("seed", {}, GRAY, tiny_cnn, "give the option teacher, the path of a pretrained checkpoint"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(
    name: str, options: dict[str, Any], spec: InputSpec, encoder: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Case(spec, encoder, options).step(name)


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.safetensors: cannot be read"):
        Case(options={"teacher": str(tmp_path / "absent.safetensors")}).step("seed")
    with pytest.raises(ConfigError, match=r"takes samples \(1, 12, 12\), the student \(3, 32\)"):
        Case(spec=SIGNAL, options={"teacher": teacher_file()}).step("seed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "encoder"), [("causal", PATCHES), ("cpc", PATCHES)], ids=["next patch", "causal tokens"]
)
def test_other_encoders_pass_the_parity_gate_too(name: str, encoder: Any) -> None:
    from export import step_parity
    from export.trace import trace_step

    step = Case(SIGNAL, encoder).step(name)
    state = step.initial_state()
    step_parity(step, state, step.hyper, trace_step(step, (8, *SIGNAL.shape)), SIGNAL, 8)
