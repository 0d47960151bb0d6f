"""Strategies against numbers and loops that did not come from our code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from strategy_cases import BATCH, DIM, SPEC, Case, after, inputs, tiny_encoder, walk
from torch import Tensor, nn
from torch.func import functional_call

from edgessl.continual.consolidation import consolidate, consolidated, importance
from edgessl.continual.strategies import STRATEGIES, build_strategy
from edgessl.continual.strategies.base import Rows
from edgessl.continual.strategies.feddecorr import mean_square_correlation
from edgessl.continual.strategies.fedx import FedX
from edgessl.continual.strategies.functional import (
    contrastive_distillation,
    decorrelative_distillation,
    predictive_distillation,
    pseudo_contrastive_loss,
    pseudo_positives,
    relation_distillation,
    relational_divergence,
    relative_error,
)
from edgessl.continual.strategies.heads import Predictor, forgotten
from edgessl.device.noise import probe_signs
from edgessl.errors import ConfigError, InputError
from edgessl.objectives import Batch, Loss, build_objective
from edgessl.objectives.network import Network
from edgessl.optim import build_optimizer
from edgessl.step import TrainStep, hyper_tensors
from edgessl.views import Pipeline
from export.parity import random_fields

N = torch.arange(1, 31, dtype=torch.float64).reshape(6, 5)
A, C = torch.sin(N), torch.cos(N)
B = A + 0.3 * torch.cos(2 * N)


# golden values of the CaSSLe source (ssl_reference 3.3), predictor = identity, two views A and B, frozen = C


def test_predictive_form() -> None:
    found = predictive_distillation(torch.cat([A, B]), torch.cat([C, C]))
    assert float(found) == pytest.approx(1.9848620632, abs=1e-9)


def test_contrastive_form() -> None:
    p, z = torch.cat([A, B]), torch.cat([C, A])
    one = contrastive_distillation(p, z, 0.2)
    assert float(one) == pytest.approx(3.3680492327, abs=1e-9)
    assert float(0.5 * (one + contrastive_distillation(z, p, 0.2))) == pytest.approx(3.3507662945, abs=1e-9)


def test_decorrelative_form() -> None:
    found = 0.5 * (decorrelative_distillation(A, C) + decorrelative_distillation(B, C))
    assert float(found) == pytest.approx(0.5066382575, abs=1e-9)


class Past:
    """A network whose trained encoder gives views A and B, and whose frozen one gives `frozen`; no other part but the
    predictor, the identity."""

    def __init__(self, frozen: Tensor) -> None:
        self.frozen_rows = frozen
        self.predictor = Predictor(5, 4, "layer").double()

    def apply(self, theta: Tensor, part: str, *arguments: Tensor, evaluating: bool = False):
        if part == "encoder":
            return (self.frozen_rows if evaluating else torch.cat([A, B])), {}
        return self.predictor(*arguments), {}


@pytest.mark.parametrize(
    ("form", "frozen", "value"),
    [
        ("predictive", (C, C), 1.9848620632),
        ("contrastive", (C, A), 3.3507662945),
        ("decorrelative", (C, C), 0.5066382575),
    ],
)
def test_cassle_gives_the_golden_values(form: str, frozen: tuple[Tensor, Tensor], value: float) -> None:
    network = Network(Past(torch.cat(frozen)).apply, torch.zeros(1))
    h = network("encoder", torch.zeros(12, 3))
    rows = Rows(network, Batch(torch.zeros(6, 3), (), torch.zeros(6, 0)), Loss(h.sum(), h, {}), None)
    strategy = build_strategy("cassle", form=form)
    hyper = {name: torch.tensor(v, dtype=torch.float64) for name, v in strategy.hyper.items()}
    found = strategy.term(network, {"anchor": torch.zeros(1)}, rows, hyper, lambda rows: rows)
    assert float(found.detach()) == pytest.approx(value, abs=1e-8)
    doubled = strategy.term(
        network, {"anchor": torch.zeros(1)}, rows, {**hyper, "cassle_weight": torch.tensor(2.0)}, lambda rows: rows
    )
    assert float(doubled.detach()) == pytest.approx(2 * value, abs=1e-8)


def test_a_predictor_starts_as_the_identity_and_can_be_made_it_again() -> None:
    step = Case("pfr").step()
    state = after(step, 3, lr=1e-2)
    pieces = step.layout.unflatten(state["theta"])
    assert pieces["past_predictor.move.3.weight"].abs().max() > 0
    again = step.layout.unflatten(forgotten(state["theta"], step.layout))
    z = torch.randn(4, DIM)
    head = {name.removeprefix("past_predictor."): t for name, t in again.items() if name.startswith("past_predictor.")}
    assert torch.equal(functional_call(step.parts.past_predictor, head, (z,)), z)
    assert all(torch.equal(again[name], t) for name, t in pieces.items() if name != "past_predictor.move.3.weight")
    settled = consolidate(step, state, None, hyper_tensors(step.hyper))
    assert torch.equal(settled["theta"], forgotten(state["theta"], step.layout))


def test_distillation_is_zero_right_after_consolidation_and_grows() -> None:
    for name in ("lwf", "pfr", "cassle", "cla_e"):
        step = Case(name).step()
        losses = [float(metrics["strategy_loss"]) for _, metrics in walk(step, step.initial_state(), 3)]
        assert losses[0] == pytest.approx(0, abs=1e-5), name
        assert losses[2] > 1e-5, name


# Fisher information and sensitivity, per sample


def softmax_gradients(x: Tensor, weight: Tensor) -> Tensor:
    """Gradients of log p(y_i | x_i) of a linear softmax, y_i = argmax, one row per sample; a loop of autograd."""
    rows = []
    for sample in x:
        w = weight.clone().requires_grad_()
        log_p = torch.log_softmax(w @ sample, 0)
        rows.append(torch.autograd.grad(log_p[log_p.argmax()], w)[0].reshape(-1))
    return torch.stack(rows)


def test_ewc_weighs_by_the_square_of_each_samples_gradient() -> None:
    """Squares first, then the mean; the square of the mean is another thing (ssl_reference, quirk 6)."""
    strategy = STRATEGIES["ewc"]()
    gradients = softmax_gradients(A, torch.sin(torch.arange(1, 16, dtype=torch.float64)).reshape(3, 5))
    per_sample = torch.stack([strategy.weigh(row) for row in gradients]).mean(0)
    torch.testing.assert_close(per_sample, gradients.square().mean(0))
    assert float(per_sample.sum()) > 2 * float(gradients.mean(0).square().sum())


def jacobian(step: TrainStep, theta: Tensor, x: Tensor) -> Tensor:
    """d embedding / d theta `(D, size)` of one sample, in float64, by autograd of every output."""
    encoder = tiny_encoder().double().eval()
    theta = theta.double().requires_grad_()
    pieces = step.layout.unflatten(theta)
    own = {name.removeprefix("encoder."): t for name, t in pieces.items() if name.startswith("encoder.")}
    z = functional_call(encoder, own, (x.double(),))[0]
    return torch.stack([torch.autograd.grad(out, theta, retain_graph=True)[0] for out in z])


def test_ewc_importance_is_the_gauss_newton_diagonal() -> None:
    """Averaged over all 2^D sign vectors the probe gives the diagonal exactly; one probe gives (J^T v)^2."""
    step = Case("ewc").step()
    theta = after(step, 2)["theta"]
    x = torch.from_numpy(random_fields(SPEC, 1, 3))
    j = jacobian(step, theta, x)
    inside = torch.zeros(step.layout.size)
    inside[: step.layout.trained_end] = 1
    probe = torch.from_numpy(probe_signs(0, 0, (1, DIM)))
    one = importance(step, theta, x, probe)
    np.testing.assert_allclose(one, (probe.double() @ j)[0].square() * inside, rtol=1e-4, atol=1e-9)
    signs = torch.tensor([[1.0 if k >> i & 1 else -1.0 for i in range(DIM)] for k in range(2**DIM)])
    mean = torch.stack([importance(step, theta, x, sign.unsqueeze(0)) for sign in signs]).mean(0)
    np.testing.assert_allclose(mean, j.square().sum(0) * inside, rtol=1e-3, atol=1e-8)
    assert mean[: step.layout.trained_end].max() > 0


@pytest.mark.parametrize("name", ["mas", "gating"])
def test_mas_importance_is_the_magnitude_of_the_squared_norms_gradient(name: str) -> None:
    step = Case(name).step()
    theta = after(step, 2)["theta"]
    x = torch.from_numpy(random_fields(SPEC, 1, 3))
    j = jacobian(step, theta, x)
    encoder = tiny_encoder().double().eval()
    pieces = step.layout.unflatten(theta.double())
    own = {name.removeprefix("encoder."): t for name, t in pieces.items() if name.startswith("encoder.")}
    z = functional_call(encoder, own, (x.double(),))[0]
    wanted = (2 * z @ j).abs()
    wanted[step.layout.trained_end :] = 0
    np.testing.assert_allclose(importance(step, theta, x, torch.ones(1, DIM)), wanted.detach(), rtol=1e-4, atol=1e-8)


def test_importances_are_averaged_scaled_and_decay() -> None:
    step = Case("ewc").step()
    state, hyper = after(step, 2), hyper_tensors({**step.hyper, "ewc_decay": 0.5})
    samples = torch.from_numpy(random_fields(SPEC, 3, 1))
    probes = torch.from_numpy(probe_signs(0, 0, (3, DIM)))
    each = [importance(step, state["theta"], samples[i : i + 1], probes[i : i + 1]) for i in range(3)]
    mean = torch.stack(each).mean(0)
    unit = mean / mean[: step.layout.trained_end].mean()
    once = consolidated(step, state, samples, probes, hyper)
    torch.testing.assert_close(once["importances"], unit)
    assert float(once["importances"][: step.layout.trained_end].mean()) == pytest.approx(1, rel=1e-4)
    twice = consolidated(step, once, samples, probes, hyper)
    torch.testing.assert_close(twice["importances"], 1.5 * unit)
    assert torch.equal(twice["anchor"], state["theta"])


@pytest.mark.parametrize("name", ["ewc", "mas", "si"])
def test_the_penalty_is_quadratic_and_its_gradient_right(name: str) -> None:
    strategy = STRATEGIES[name]()
    theta, anchor, importances = A.reshape(-1), C.reshape(-1), B.reshape(-1).square()
    slots = {"anchor": anchor, "importances": importances}
    at = theta.clone().requires_grad_()
    by_hand = 0.5 * 3.0 * (importances * (at - anchor).square()).sum()
    value, gradient = strategy.penalty(theta, slots, {f"{name}_weight": torch.tensor(3.0, dtype=torch.float64)})
    assert float(value) == pytest.approx(float(by_hand.detach()), rel=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(by_hand, at)[0])


def test_the_penalty_enters_the_update_and_the_clipping() -> None:
    step = Case("ewc").step(optimizer="sgd")
    state = after(step, 2)
    state = {**state, "importances": torch.rand(step.layout.size), "anchor": state["anchor"] - 0.1}
    state["importances"][step.layout.trained_end :] = 0
    hyper = {**step.hyper, "clip_norm": 1e6, "weight_decay": 0.0, "momentum": 0.0, "lr": 0.1}
    samples, noise, _ = inputs(step, 4)
    free, _ = step(state, samples, noise, hyper_tensors({**hyper, "ewc_weight": 0.0}))
    held, metrics = step(state, samples, noise, hyper_tensors({**hyper, "ewc_weight": 2.0}))
    pull = 2.0 * state["importances"] * (state["theta"] - state["anchor"])
    torch.testing.assert_close(held["theta"], free["theta"] - 0.1 * pull, rtol=1e-4, atol=1e-6)
    value = (state["importances"] * (state["theta"] - state["anchor"]).square()).sum()
    torch.testing.assert_close(metrics["strategy_loss"], value, rtol=1e-4, atol=1e-6)


# SI against a loop by hand


def test_si_follows_a_hand_written_loop() -> None:
    """Path and importance of every parameter over ten steps and a consolidation, recomputed in float64 numpy from the
    objective's gradients, which a step without strategy gives."""
    step = Case("si").step(optimizer="sgd")
    plain = TrainStep(step.parts.encoder, step.objective, step.optimizer, step.views.pipeline)
    hyper = {**step.hyper, "si_weight": 5.0, "si_decay": 0.7, "si_damping": 0.01, "lr": 0.02}
    scalars, end = hyper_tensors(hyper), step.layout.trained_end
    state = step.initial_state()
    path, omega = np.zeros(step.layout.size), np.zeros(step.layout.size)
    anchor = state["theta"].double().numpy()
    for t in range(10):
        samples, noise, _ = inputs(step, t)
        own = plain.gradient({"theta": state["theta"]}, samples, noise, hyper_tensors(plain.hyper)).direction
        before = state["theta"].double().numpy()
        state, _ = step(state, samples, noise, scalars)
        move = state["theta"].double().numpy() - before
        path[:end] -= own.double().numpy()[:end] * move[:end]
        np.testing.assert_allclose(state["path"], path, rtol=1e-4, atol=1e-7)
        if t in (4, 8):
            theta = state["theta"].double().numpy()
            earned = np.maximum(path, 0) / ((theta - anchor) ** 2 + 0.01)
            omega = 0.7 * omega + earned / earned[:end].mean()
            state = consolidate(step, state, None, scalars)
            np.testing.assert_allclose(state["importances"], omega, rtol=2e-3, atol=1e-4)
            path, anchor = np.zeros_like(path), theta
            assert not state["path"].any()
    assert omega.max() > 1


# memory: LUMP, DER, CLA-R, SCALE


def test_lump_mixes_new_with_remembered_by_the_arcsine_law() -> None:
    strategy = STRATEGIES["lump"]()
    x, view = torch.randn(8, 2, 5), torch.randn(8, 2, 5)
    u = torch.linspace(0, 0.99, 8).reshape(8, 1)
    mixed = strategy.mix(Batch(x, (view,), torch.zeros(8, 0)), u, {})
    for i in range(8):
        c = math.sin(0.5 * math.pi * float(u[i])) ** 2
        j = (i + 4) % 8
        torch.testing.assert_close(mixed.sample[i], c * x[i] + (1 - c) * x[j])
        torch.testing.assert_close(mixed.views[0][i], c * view[i] + (1 - c) * view[j])
    draws = np.sin(0.5 * np.pi * np.random.default_rng(0).random(200_000)) ** 2
    for quantile in (0.1, 0.25, 0.5, 0.9):  # the distribution function of Beta(1/2, 1/2) is 2/pi asin(sqrt(x))
        assert np.mean(draws <= quantile) == pytest.approx(2 / np.pi * math.asin(math.sqrt(quantile)), abs=5e-3)


def test_lump_refuses_token_ids() -> None:
    assert "tokens" not in STRATEGIES["lump"].kinds


def test_der_and_cla_r_look_at_remembered_rows_only() -> None:
    for name in ("der", "cla_r", "scale"):
        step = Case(name).step()
        state, hyper = after(step, 2), hyper_tensors(step.hyper)
        samples, noise, stored = inputs(step, 5)
        found = float(step.gradient(state, samples, noise, hyper, stored=stored).term)
        other = stored.clone()
        other[: BATCH // 2] += 3
        assert float(step.gradient(state, samples, noise, hyper, stored=other).term) == found, name
        other[BATCH // 2 :] += 3
        assert float(step.gradient(state, samples, noise, hyper, stored=other).term) != found, name


def test_der_is_the_relative_squared_error_of_every_view() -> None:
    step = Case("der").step()
    state, hyper = after(step, 2), hyper_tensors(step.hyper)
    samples, noise, stored = inputs(step, 5)
    gradient = step.gradient(state, samples, noise, hyper, stored=stored)
    old = stored[BATCH // 2 :].double()
    views = [view[BATCH // 2 :].double() for view in gradient.embeddings.chunk(2)]
    error = sum(float((view - old).square().sum()) for view in views) / (2 * float(old.square().sum()))
    assert float(gradient.term) == pytest.approx(0.5 * error, rel=1e-5)
    assert float(relative_error(A, C)) == pytest.approx(float((A - C).square().sum() / C.square().sum()), rel=1e-9)


def test_pseudo_positives_are_the_near_pairs() -> None:
    """Two tight groups far apart: exactly their members pair up."""
    base = torch.tensor([[1.0, 0, 0], [1, 0.05, 0], [0, 1, 0], [0, 1, 0.05]], dtype=torch.float64)
    found = pseudo_positives([base, base + 0.01], torch.tensor(0.1), torch.tensor(0.1))
    expected = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.float64)
    assert torch.equal(found, expected)
    with pytest.raises(InputError, match="at least 2"):
        pseudo_positives([base[:1]], torch.tensor(0.1), torch.tensor(0.1))


def test_pseudo_contrastive_loss_by_a_loop() -> None:
    new, old, t = [A[:3], B[:3]], [A[3:], B[3:]], 0.3
    positives = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.float64)
    everybody = nn.functional.normalize(torch.cat([*new, *old]))
    losses = []
    for i in range(6):
        logits = {j: float(everybody[i] @ everybody[j]) / t for j in range(12) if j != i}
        total = math.log(sum(math.exp(v) for v in logits.values()))
        mine = [j for j in range(6) if j != i and positives[i % 3, j % 3]]
        losses.append(np.mean([total - logits[j] for j in mine]))
    found = pseudo_contrastive_loss(new, old, positives, torch.tensor(t, dtype=torch.float64))
    assert float(found) == pytest.approx(float(np.mean(losses)), rel=1e-9)


def test_pseudo_contrastive_loss_with_selves_only_is_simclrs() -> None:
    from edgessl.objectives.functional import nt_xent_loss

    found = pseudo_contrastive_loss([A, B], [A[:0], B[:0]], torch.eye(6, dtype=torch.float64), torch.tensor(0.5))
    assert float(found) == pytest.approx(float(nt_xent_loss(A, B, 0.5)), rel=1e-6)


def test_relation_distillation_by_a_loop() -> None:
    z, past = nn.functional.normalize(A), nn.functional.normalize(C)
    losses = []
    for i in range(6):
        others = [j for j in range(6) if j != i]
        p = torch.softmax(torch.stack([past[i] @ past[j] for j in others]) / 0.05, 0)
        q = torch.log_softmax(torch.stack([z[i] @ z[j] for j in others]) / 0.1, 0)
        losses.append(float(-(p * q).sum()))
    found = relation_distillation(A, C, *(torch.tensor(t, dtype=torch.float64) for t in (0.1, 0.05)))
    assert float(found) == pytest.approx(float(np.mean(losses)), rel=1e-9)


# slow weights, gates, scaling


def test_averages_follow_theta() -> None:
    for name, slot, hyper in (("slow", "slow", "slow_decay"), ("cla_e", "average", "average_decay")):
        step = Case(name).step()
        state = step.initial_state()
        (following, _), *_ = walk(step, state, 1, **{hyper: 0.75})
        torch.testing.assert_close(following[slot], 0.75 * state[slot] + 0.25 * following["theta"])
    assert STRATEGIES["slow"].embeds == "slow"


def test_a_shut_gate_stops_adam_and_weight_decay() -> None:
    step = Case("gating", {"hard": True, "share": 0.4}).step()
    state = after(step, 3)
    samples, _, _ = inputs(step, 50)
    probes = torch.from_numpy(probe_signs(0, 0, (BATCH, DIM)))
    state = consolidated(step, state, samples, probes, hyper_tensors(step.hyper))
    *_, (later, _) = walk(step, state, 3, first=3)
    shut = state["gate"] == 0
    assert torch.equal(later["theta"][shut], state["theta"][shut])
    opened = ~shut & (torch.arange(step.layout.size) < step.layout.trained_end)
    assert (later["theta"] - state["theta"])[opened].abs().max() > 0
    # whole units: one gate per row of a weight; of the parts that the embedding depends on, the encoder's
    gates = step.layout.unflatten(state["gate"])["encoder.stages.stem.conv.weight"].reshape(DIM, -1)
    assert ((gates == gates[:, :1]).all(1)).all()
    heads = [t for name, t in step.layout.unflatten(state["gate"]).items() if name.startswith("projector")]
    assert all((t == 1).all() for t in heads)


def test_hard_gates_shut_the_most_important_share() -> None:
    step = Case("gating", {"hard": True, "share": 0.25}).step()
    score = torch.arange(1.0, step.layout.size + 1)
    state = consolidate(step, step.initial_state(), score, hyper_tensors(step.hyper))
    groups, gates = [], []
    pieces, values = step.layout.unflatten(score), step.layout.unflatten(state["gate"])
    for entry in step.layout.entries:
        if entry.kind in ("weight", "vector"):
            rows = pieces[entry.name].reshape(entry.shape[0], -1).mean(1)
            groups += rows.tolist()
            gates += values[entry.name].reshape(entry.shape[0], -1)[:, 0].tolist()
    most = sorted(groups)[-round(0.25 * len(groups)) :]
    assert [gate == 0 for gate in gates] == [group in most for group in groups]


def test_soft_gates_are_hyperbolic_in_the_importance() -> None:
    step = Case("gating").step()
    state = consolidate(
        step, step.initial_state(), torch.ones(step.layout.size), hyper_tensors({**step.hyper, "gate_strength": 3.0})
    )
    torch.testing.assert_close(state["gate"][: step.layout.trained_end], torch.full((step.layout.trained_end,), 0.25))
    assert (state["gate"][step.layout.trained_end :] == 1).all()


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_scaling_returns_every_unit_to_its_strength(rate: float) -> None:
    step = Case("scaling").step()
    plain = Case("lump").step()
    (state, _), *_ = walk(step, step.initial_state(), 1, scaling_rate=rate, lr=0.1)
    free = TrainStep(step.parts.encoder, step.objective, step.optimizer, step.views.pipeline)
    (moved, _), *_ = walk(free, free.initial_state(), 1, lr=0.1)
    assert plain.layout.size == step.layout.size
    for entry in step.layout.entries:
        rows = [
            step.layout.unflatten(s["theta"])[entry.name].reshape(entry.shape[0], -1)
            for s in (state, moved, step.initial_state())
        ]
        if entry.kind != "weight":
            assert torch.equal(rows[0], rows[1])
            continue
        found, before, start = (row.norm(dim=1) for row in rows)
        torch.testing.assert_close(found, before * (start / before) ** rate, rtol=1e-4, atol=1e-6)


def test_scaling_lets_units_be_that_start_at_zero() -> None:
    step = Case("scaling").step()
    state = step.initial_state()
    strategy, theta = step.strategy, state["theta"].clone()
    theta[: step.layout.weights_end] = 0
    slots = strategy.slots(theta, step.layout)
    moved = theta + 0.1
    found, _ = strategy.after_update(slots, theta, moved, theta, hyper_tensors(step.hyper), step.layout)
    assert torch.equal(found, moved)


# what goes wrong


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("nonsense", {}, "unknown strategy 'nonsense'"),
        ("cassle", {"form": "other"}, "expected one of predictive"),
        ("cassle", {"width": 3}, "has no option 'width'"),
        ("cassle", {"hidden": "wide"}, "takes int"),
        ("gating", {"share": 1.0}, "between 0 and 1"),
        ("lwf", {"x": 1}, "it has none"),
    ],
)
def test_wrong_names_and_options_are_refused(name: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_strategy(name, **options)


def test_what_measures_nothing_says_so() -> None:
    step = Case("lwf").step()
    theta = step.initial_state()["theta"]
    x = torch.from_numpy(random_fields(SPEC, 1, 0))
    with pytest.raises(ConfigError, match="lwf measures no importance"):
        importance(step, theta, x, torch.ones(1, DIM))
    plain = TrainStep(tiny_encoder(), build_objective("simclr"), build_optimizer("sgd"), Pipeline((), SPEC.shape))
    with pytest.raises(ConfigError, match="no continual strategy"):
        consolidate(plain, plain.initial_state(), None, {})


def test_two_with_one_name_are_refused() -> None:
    objective = build_objective("simclr")
    clash = type("Clash", (STRATEGIES["lwf"],), {"hyper": {"temperature": 1.0}})()
    with pytest.raises(ConfigError, match="two of them have a hyperparameter 'temperature'"):
        TrainStep(tiny_encoder(), objective, build_optimizer("sgd"), Pipeline((), SPEC.shape), strategy=clash)


def test_a_step_without_stored_embeddings_says_so() -> None:
    step = Case("der").step()
    samples, noise, _ = inputs(step)
    with pytest.raises(InputError, match="stored in a replay memory"):
        step(step.initial_state(), samples, noise, hyper_tensors(step.hyper))


def test_fedprox_pulls_by_the_distance_from_the_fleet() -> None:
    strategy, hyper = build_strategy("fedprox"), {"proximal_weight": torch.tensor(0.5, dtype=torch.float64)}
    value, pull = strategy.penalty(A.flatten(), {"fleet": C.flatten()}, hyper)
    assert float(value) == pytest.approx(0.25 * float(((A - C) ** 2).sum()), rel=1e-12)
    torch.testing.assert_close(pull, 0.5 * (A - C).flatten())


def test_relational_divergence_is_the_mean_of_jensen_shannons() -> None:
    rng = np.random.default_rng(4)
    a, b, r = (rng.normal(size=(7, 5)) for _ in range(3))

    def chances(z: np.ndarray, others: list[int]) -> np.ndarray:
        cosines = [z @ r[j] / np.linalg.norm(z) / np.linalg.norm(r[j]) for j in others]
        e = np.exp(np.array(cosines) / 0.1)
        return np.asarray(e / e.sum())

    expected = []
    for i in range(7):
        others = [j for j in range(7) if j != i]
        p, q = chances(a[i], others), chances(b[i], others)
        m = (p + q) / 2
        expected.append(0.5 * (p * np.log(p / m)).sum() + 0.5 * (q * np.log(q / m)).sum())
    value = relational_divergence(*(torch.from_numpy(z) for z in (a, b, r)), 0.1)
    assert float(value) == pytest.approx(np.mean(expected), rel=1e-10)
    assert float(relational_divergence(*(torch.from_numpy(z) for z in (a, a, r)), 0.1)) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(InputError, match="relational_divergence"):
        relational_divergence(*(torch.from_numpy(z[:2]) for z in (a, b, r)))


def test_fedx_is_the_papers_three_terms() -> None:
    """Terms of a step whose fleet is another network, in float64 from its own forward passes."""
    step = Case("fedx", {"hidden": 10}).step()
    state = step.initial_state()
    other = torch.Generator().manual_seed(9)
    state["fleet"] = state["fleet"] + 0.1 * torch.randn(state["fleet"].shape, generator=other)
    samples, noise, _ = inputs(step)
    _, metrics = step(state, samples, noise, hyper_tensors({**step.hyper, "fedx_weight": 0.7}))
    seen = dict[str, torch.Tensor]()

    class Watching(FedX):
        def term(self, network, slots, rows, hyper, gather):  # type: ignore[no-untyped-def]
            x, embedding = rows.embedded
            fleet = network.frozen(slots["fleet"])
            seen["z"] = network("projector", embedding)
            seen["p"] = network("past_predictor", seen["z"])
            seen["f"] = fleet("projector", fleet("encoder", x))
            return super().term(network, slots, rows, hyper, gather)

    step.strategy = Watching(hidden=10)
    step(state, samples, noise, hyper_tensors(step.hyper))
    z, p, f = (seen[name].detach().double().chunk(2) for name in "zpf")
    both = torch.nn.functional.normalize(torch.cat([p[0], f[1]]), dim=1)
    logits = (both @ both.T / 0.1).fill_diagonal_(-torch.inf)
    partner = torch.arange(2 * len(p[0])).roll(len(p[0]))
    contrast = torch.nn.functional.cross_entropy(logits, partner)
    expected = contrast + relational_divergence(*p, f[0], 0.1) + relational_divergence(*z, z[0], 0.1)
    assert float(metrics["strategy_loss"]) == pytest.approx(0.7 * float(expected), rel=1e-4)


def test_the_mean_square_correlation_is_numpys() -> None:
    z = np.random.default_rng(0).normal(size=(50, 6)) @ np.random.default_rng(1).normal(size=(6, 6))
    expected = (np.corrcoef(z.T) ** 2).mean()
    assert float(mean_square_correlation(torch.from_numpy(z))) == pytest.approx(expected, rel=1e-4)
    alike = torch.arange(8, dtype=torch.float64)[:, None].repeat(1, 5)
    assert float(mean_square_correlation(alike)) == pytest.approx(1.0, abs=1e-5)
