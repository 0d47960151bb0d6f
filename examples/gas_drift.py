"""A sensor that ages for three years: gases told apart over 36 months with labels from the first month only.

    python examples/gas_drift.py                                # needs gas_drift.npz; EDGESSL_DATA names its folder
    python examples/gas_drift.py --protocol recorded --seeds 0 --out runs/gas_drift.json

Three protocols, never mixed (docs/gas_drift.md): `monthly` may look at a month's unlabelled samples before it answers,
`shuffled` and `recorded` answer each sample before they learn from it, in seeded random order and as recorded. `five`
adds 5 labels per gas and month. Only numpy runs in what answers; the encoder rows need torch.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgessl.data import array_source, load_shared
from edgessl.device import DriftingClasses, DriftingStream, SoftmaxRegression
from edgessl.device.drift.normalize import spread
from edgessl.errors import EdgeSSLError

SENSOR = 8  # features of each of the 16 sensors
PROTOCOLS = ("monthly", "shuffled", "recorded", "five", "baselines", "encoders")
Months = dict[int, tuple[np.ndarray, np.ndarray]]  # batch: samples (N, 128), gases (N,)


def load() -> Months:
    """Every month's samples, as signed logarithms: a change of a sensor's gain is then a shift."""
    data = load_shared("gas_drift", train_batches=(1,))
    months: Months = {}
    for source, groups in ((data.train, data.train_groups), (data.test, data.test_groups)):
        x = source.take(np.arange(len(source)))[:, :, 0].astype(np.float64)
        for batch in np.unique(groups["batch"]):
            rows = groups["batch"] == batch
            months[int(batch)] = np.sign(x[rows]) * np.log1p(np.abs(x[rows])), np.asarray(source.labels)[rows]
    return months


def monthly(months: Months, seed: int) -> dict[int, np.ndarray]:
    """Labels of each later month, the month's unlabelled samples in hand and nothing later."""
    first, *later = months
    head = DriftingClasses(*months[first], group=SENSOR, seed=seed)
    return {month: head.adapt(months[month][0]).argmax(1) for month in later}


def online(months: Months, seed: int, shuffled: bool) -> dict[int, np.ndarray]:
    """Labels of each later month, every one given before its sample is learnt from; months are sessions."""
    first, *later = months
    stream = DriftingStream(*months[first], group=SENSOR, mixed=shuffled, seed=seed)
    labels = {}
    for month in later:
        x = months[month][0]
        order = np.random.default_rng([seed, month]).permutation(len(x)) if shuffled else np.arange(len(x))
        labels[month] = np.zeros(len(x), np.int64)
        for i in order:
            labels[month][i] = stream.observe(x[i]).argmax()
        stream.end_session()
    return labels


def five_labels(months: Months, seed: int, predict: Callable | None = None) -> dict[int, float]:
    """Accuracy on the rest of each later month, with 5 labels per gas of the month, drawn by `seed`.

    Ours: logistic regression of those, each counting 10 times, and of the first month, each month on its own scale.
    """
    first, *later = months
    accuracy = {}
    for month in later:
        x, gases = months[month]
        rng = np.random.default_rng(seed)
        drawn = np.concatenate([rng.permutation(np.flatnonzero(gases == k))[:5] for k in range(6)])
        rest = np.setdiff1d(np.arange(len(x)), drawn)
        z = scaled(x)
        if predict is not None:
            answers = predict(z[drawn], gases[drawn], z[rest])
        else:
            known = np.concatenate([z[drawn], scaled(months[first][0])])
            labels = np.concatenate([gases[drawn], months[first][1]])
            counts = np.where(np.arange(len(known)) < len(drawn), 10.0, 1.0)
            answers = SoftmaxRegression.fit(known, labels, 6, 1.0, counts).probabilities(z[rest]).argmax(1)
        accuracy[month] = float((answers == gases[rest]).mean())
    return accuracy


def scaled(x: np.ndarray, by: np.ndarray | None = None) -> np.ndarray:
    """`x` by the mean and spread of `by`, its own by default."""
    by = x if by is None else by
    return (x - by.mean(0)) / spread(by)


def nearest(bank: np.ndarray, labels: np.ndarray, x: np.ndarray, k: int = 1) -> np.ndarray:
    """Labels by the majority of the k nearest in Euclidean distance."""
    squares = (x**2).sum(1)[:, None] - 2 * x @ bank.T + (bank**2).sum(1)
    near = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return np.array([np.bincount(row).argmax() for row in labels[near]])


def logistic(bank: np.ndarray, labels: np.ndarray, x: np.ndarray, inverse_penalty: float = 1.0) -> np.ndarray:
    """Labels by logistic regression."""
    return SoftmaxRegression.fit(bank, labels, 6, inverse_penalty).probabilities(x).argmax(1)


def baselines(months: Months) -> dict[str, dict[int, float]]:
    """Accuracies of what does not adapt or only normalises; `joint` has half of each month's labels (upper bound)."""
    (_, (x1, y1)), *later = months.items()
    rows: dict[str, dict[int, float]] = {}
    for month, (x, gases) in later:
        half = np.random.default_rng([0, month]).permutation(len(x))
        known, rest = half[: len(x) // 2], half[len(x) // 2 :]
        z = scaled(x)
        answers = {
            "static, 5-NN": nearest(scaled(x1), y1, scaled(x, x1), 5),
            "static, logistic": logistic(scaled(x1), y1, scaled(x, x1)),
            "re-normalised, 5-NN": nearest(scaled(x1), y1, z, 5),
            "re-normalised, logistic": logistic(scaled(x1), y1, z),
        }
        for name, found in answers.items():
            rows.setdefault(name, {})[month] = float((found == gases).mean())
        joint = logistic(np.concatenate([z[known], scaled(x1)]), np.concatenate([gases[known], y1]), z[rest])
        rows.setdefault("joint, logistic", {})[month] = float((joint == gases[rest]).mean())
    return rows


def encoders(months: Months, seed: int) -> dict[str, dict[int, float]]:
    """Re-normalised 5-NN on embeddings: random weights, and pretrained without labels on the first month, frozen."""
    import torch

    from edgessl.pretrain import pretrain
    from edgessl.recipe import build_step, parse_recipe

    torch.set_num_threads(1)
    (_, (x1, y1)), *later = months.items()
    views = [
        {"name": "feature_offset", "options": {"sigma": 0.3, "group": SENSOR}},
        {"name": "feature_noise", "options": {"sigma": 0.1}},
        {"name": "feature_mask", "options": {"p": 0.2, "group": SENSOR}},
    ]
    recipe = parse_recipe(
        {"objective": {"name": "simclr"}, "views": views, "batch_size": 128, "epochs": 100, "seed": seed}
    )
    checkpoint = pretrain(recipe, array_source(scaled(x1).astype(np.float32), kind="features"))
    networks = {
        "random encoder, 5-NN": build_step(recipe, checkpoint.input).parts.encoder,
        "frozen encoder, 5-NN": checkpoint.encoder(),
    }

    def embed(network: torch.nn.Module, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            z = network(torch.from_numpy(scaled(x).astype(np.float32))).numpy().astype(np.float64)
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    return {
        name: {
            month: float((nearest(embed(network, x1), y1, embed(network, x), 5) == gases).mean())
            for month, (x, gases) in later
        }
        for name, network in networks.items()
    }


def summary(rows: Sequence[dict[int, float]], seeds: Sequence[int]) -> dict:
    """Mean over the months: mean and sample deviation over the seeds; and over months 4 to 9 alone."""
    means = [float(np.mean(list(row.values()))) for row in rows]
    mean, std = float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else 0.0
    late = float(np.mean([np.mean([v for month, v in row.items() if month > 3] or [np.nan]) for row in rows]))
    by_month = {str(month): float(np.mean([row[month] for row in rows])) for month in rows[0]}
    return {"mean": mean, "std": std, "seeds": list(seeds), "months_4_to_9": late, "by_month": by_month}


def encoder_rows(months: Months, seeds: Sequence[int]) -> dict[str, dict]:
    """Summaries of `encoders`."""
    networks = [encoders(months, s) for s in seeds]
    return {f"baseline: {name}": summary([n[name] for n in networks], seeds) for name in networks[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--protocol", choices=["all", *PROTOCOLS], default="all")
    parser.add_argument("--out", type=Path, default=Path("runs/gas_drift.json"))
    arguments = parser.parse_args()
    months, seeds = load(), arguments.seeds
    draws = sorted({*seeds, 0, 1, 2, 3, 4})  # of the five labels

    def scores(run: Callable[[int], dict[int, np.ndarray]]) -> dict:
        return summary([{m: float((v == months[m][1]).mean()) for m, v in run(s).items()} for s in seeds], seeds)

    wanted: dict[str, Callable[[], dict]] = {
        "monthly": lambda: {"monthly_mean": scores(lambda s: monthly(months, s))},
        "shuffled": lambda: {"online_shuffled_mean": scores(lambda s: online(months, s, shuffled=True))},
        "recorded": lambda: {"online_recorded_mean": scores(lambda s: online(months, s, shuffled=False))},
        "five": lambda: {
            "five_labels_mean": summary([five_labels(months, s) for s in draws], draws),
            "five_labels, 1-NN": summary([five_labels(months, s, nearest) for s in draws], draws),
            "five_labels, logistic": summary([five_labels(months, s, logistic) for s in draws], draws),
        },
    }
    wanted["baselines"] = lambda: {f"baseline: {k}": summary([row], [0]) for k, row in baselines(months).items()}
    wanted["encoders"] = lambda: encoder_rows(months, seeds)
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}  # other protocols' figures stay
    how = {
        "command": f"python examples/gas_drift.py --protocol {arguments.protocol} --seeds {' '.join(map(str, seeds))}",
        "machine": f"{platform.processor() or platform.machine()}, {platform.system()}",
        "date": time.strftime("%Y-%m-%d"),
    }
    for name, measure in wanted.items():
        if arguments.protocol in ("all", name):
            for key, value in measure().items():
                result[key] = {**value, **how}
                print(f"{key}: {value['mean']:.3f} +- {value['std']:.3f}; 4 to 9: {value['months_4_to_9']:.3f}")
    if arguments.protocol in ("all", "baselines"):
        result["static_mean"] = result["baseline: static, 5-NN"]
        result["renormalised_mean"] = result["baseline: re-normalised, 5-NN"]
    result["protocols"] = __doc__
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    try:
        main()
    except EdgeSSLError as error:
        sys.exit(f"error: {error}")
