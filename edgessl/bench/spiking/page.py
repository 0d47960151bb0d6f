"""Results of the spiking benches as the page docs/spiking.md.

python -m edgessl.bench.spiking.page examples/results > docs/spiking.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgessl.bench.continual.tables import lines, objectives_of
from edgessl.bench.spiking.costs_page import TITLES, conformance, energy, machine_words, markdown_table, speed
from edgessl.bench.spiking.data import CASES
from edgessl.bench.spiking.systems import GRID, LOCAL

Json = Mapping[str, Any]
TARGETS = {8: 0.5, 4: 2.0}  # points that a read-out kept from floats may lose at so many bits
LOCAL_GAP = 5.0  # points by which the best local rule may lie below the best surrogate gradient
TRAINED = ("predictive", "contrast")
CONTINUAL = {"split_fashion": "continual-split_fashion.json", "nmnist": "continual-nmnist.json"}
INTRODUCTION = """# The spiking side: what it learns, keeps, costs, and how fast it runs

No label enters any training here; labels are used by linear read-outs (logistic regression on standardised features),
by nearest neighbours and, where that is said, by prototypes. Every system's one number (a learning rate, or the shift
of a local rule) was chosen on a quarter of the *training* samples with seed 100
(`examples/results/spiking_choice.json`); test samples were read afterwards, with seeds 0, 1 and 2. Figures are percent,
mean ± sample standard deviation over the seeds, of the last state.

Everything runs in Loihi-2-class integers, verified against Lava 0.10.0's simulators; nothing here ran on a chip.
"""
CONTINUAL_WORDS = """Same samples, order, judge and figures as `edgessl continual bench` (docs/continual.md); every
sample is seen once and nothing of it is kept. *final* is the linear probe fitted to labelled samples of all contexts,
*kNN* the vote of 20 neighbours, *aware* the probe fitted to the sample's own context; *prototypes* is the device's own
read-out (CLP-style, at most {prototypes} prototypes), which heard each label once. The rules' rates were not tuned on
these streams; *frozen* has the first weights."""
COLUMNS = (("linear", "final_accuracy"), ("linear", "forgetting"), ("knn", "final_accuracy"), ("knn", "forgetting"),
           ("linear_aware", "final_accuracy"))  # fmt: skip
OWN = (("prototypes", "final_accuracy"), ("prototypes", "forgetting"))
HEADLINE = "knn"  # of the judge's kinds: the figures of a dense row that bear no kind's name
SYSTEMS = {
    "input": "the spikes themselves, averaged; no network",
    "random": "spiking LIF layers with their first, balanced weights",
    "predictive": "spiking, predicts the layer below (surrogate gradient inside each layer)",
    "contrast": "spiking, temporal contrast (surrogate gradient inside each layer)",
    "dense": "dense twin: leaky integrators with a ReLU instead of spikes, predictive",
    "dense contrast": "dense twin, temporal contrast",
    "liquid": "liquid (continuous-time) cell, predictive",
    "espp": "local: ESPP, temporal adjacency its only signal",
    "delta": "local: predictive-coding delta rule, Kolen-Pollack feedback",
    "stdp": "local: STDP with lateral inhibition",
}
NOTES = """STDP with lateral inhibition has no row: its neurons share one threshold, all learn nearly the same feature,
and on validation samples it ended at 21 % on FSDD and 42 % on ECG spikes (`spiking_choice.json`). ESPP on N-MNIST
learns the camera's saccades, which its windows follow, and not the digits; there one of its two settings was tried.
The settings were chosen once, before the samples of the test were read; what fails here is published as it is.
"""
PUBLISHED = """## Published figures, for orientation

Other data, sizes and label use; none of them is a like-for-like comparison. ESPP (Graf et al. 2024, arXiv 2405.13976):
84.3 % on SHD, with the bit "same class" where ours is temporal adjacency. CLP-SNN (arXiv 2511.01553, Intel): OpenLORIS
few-shot on Loihi 2 silicon, 0.33 ms and 0.05 mJ per sample. CSDP (Sci. Adv. 10, eadn6076) and SNN-PC (Front. Comput.
Neurosci. 18:1338280) report on MNIST-like data with larger networks. We took these figures from abstracts and secondary
sources and did not check them against the papers' tables.
"""


def page(folder: Path) -> str:
    """The whole page in Markdown, of whatever results lie in `folder`."""
    parts = [INTRODUCTION]
    dense = {k: json.loads((folder / v).read_text()) for k, v in CONTINUAL.items() if (folder / v).exists()}
    sections: dict[str, Callable[[Json], str]] = {
        "spiking.json": learning, "spiking_continual.json": lambda found: continual(found, dense),
        "spiking_energy.json": energy, "neuro_bench.json": speed, "lava_conformance.json": conformance,
    }  # fmt: skip
    for name, section in sections.items():
        if (folder / name).exists():
            parts.append(section(json.loads((folder / name).read_text())))
            if section is learning:
                parts += [NOTES, PUBLISHED]
    return "\n".join(parts).rstrip() + "\n"


def learning(found: Json) -> str:
    """Accuracies of every system, what integers cost, and whether targets are met."""
    rows = found["summary"]
    text = ["## Learning without labels", "", "Linear read-out, percent. " + machine_words(found), ""]
    names = [name for name in TITLES if any(row["data"] == name for row in rows)]
    body = []
    for system in GRID:
        for training in ("none", "floats", "local"):
            cells = [_accuracy(rows, name, system, training) for name in names]
            if any(cells) and (training != "none" or system not in ("stdp", "delta")):
                label = f"{system}, first weights" if system in LOCAL and training == "none" else system
                body.append([label, *cells, SYSTEMS[system] if training != "none" or system not in LOCAL else ""])
    text += markdown_table(["", *(TITLES[n] for n in names), "what it is"], body, len(names))
    text += ["", _sizes(names), "", "### Integers", "", _bits_words(found), ""]
    body = []
    for name in names:
        for system in TRAINED:
            for how in (("floats", "kept"), ("floats", "refit"), ("integers", "refit")):
                cells = [_accuracy(rows, name, system, how[0], bits, how[1]) for bits in TARGETS]
                if any(cells):
                    body.append([TITLES[name], system, _accuracy(rows, name, system, "floats"), *cells, _how(*how)])
    text += markdown_table(["data", "system", "floats", "8 bits", "4 bits", "converted, read out"], body, 3, 2)
    return "\n".join([*text, "", "### Targets", "", *_targets(rows, names), ""])


def _targets(rows: Sequence[Json], names: Sequence[str]) -> list[str]:
    said = []
    for name in names:
        for bits, allowed in TARGETS.items():
            floats, integers = _mean(rows, name, "predictive", "floats"), []
            for how in (("floats", "kept"), ("floats", "refit"), ("integers", "refit")):
                found = _mean(rows, name, "predictive", how[0], bits, how[1])
                if found is not None and floats is not None:
                    integers.append((100 * (floats - found), _how(*how)))
            if integers:
                verdicts = "; ".join(f"{loss:+.1f} points lost, {how}" for loss, how in integers)
                met = [how for loss, how in integers if loss <= allowed]
                said.append(f"- {TITLES[name]}, {bits} bits within {allowed:g} points of floats: "
                            f"{'met by ' + ' and '.join(met) if met else '**not met**'} ({verdicts}).")  # fmt: skip
        surrogate = [m for s in TRAINED if (m := _mean(rows, name, s, "floats")) is not None]
        local = {s: m for s in LOCAL if (m := _mean(rows, name, s, "local", 8)) is not None}
        untrained = _mean(rows, name, "random", "none")
        if surrogate and local and untrained is not None:
            best = max(local, key=lambda s: local[s])
            gap = 100 * (max(surrogate) - local[best])
            beside = 100 * (local[best] - untrained)
            said.append(f"- {TITLES[name]}, local learning within {LOCAL_GAP:g} points of surrogate gradients: "
                        f"{'met' if gap <= LOCAL_GAP else '**not met**'} by {best} ({gap:+.1f} points below; "
                        f"{beside:+.1f} beside random spiking features).")  # fmt: skip
            gain = 100 * (max(surrogate) - untrained)
            said.append(
                f"- {TITLES[name]}: the best surrogate gradient is {gain:+.1f} points beside random spiking features."
            )
    return said


def continual(found: Json, dense: Mapping[str, Json]) -> str:
    """Accuracy and forgetting of local rules beside the dense strategies of the same stream."""
    text = ["## Continual: classes one after another, local rules, no replay", "", CONTINUAL_WORDS.format(
        prototypes=found["settings"]["prototypes"]), machine_words(found), ""]  # fmt: skip
    for stream in dict.fromkeys(row["stream"] for row in found["summary"]):
        body = []
        for system in dict.fromkeys(row["system"] for row in found["summary"]):
            own = {r["judged"]: r for r in found["summary"] if (r["stream"], r["system"]) == (stream, system)}
            if own:
                cells = [_pm(own[kind][figure]) for kind, figure in (*COLUMNS, *OWN)]
                body.append([f"spiking, {system}", *cells])
        if stream in dense:
            for objective in objectives_of(dense[stream]):
                for line in lines(dense[stream], objective):
                    known = {**line.figures, **{f"{HEADLINE}.{k}": v for k, v in line.figures.items() if "." not in k}}
                    cells = [_pm(known[".".join(key)]) for key in COLUMNS]
                    body.append([f"dense, {objective}, {line.strategy}", *cells, "", ""])
        heads = ["", "final", "forgetting", "final, kNN", "forgetting, kNN", "final, aware", "prototypes",
                 "their forgetting"]  # fmt: skip
        text += [f"### {stream}", "", *markdown_table(heads, body, 7), ""]
    return "\n".join(text)


def _accuracy(
    rows: Sequence[Json], data: str, system: str, training: str, bits: int | None = None, read_out: str = "refit"
) -> str:
    if system in LOCAL:
        bits = 8
    for row in rows:
        found = row["data"], row["system"], row["training"], row["bits"], row["read_out"]
        if found == (data, system, training, bits, read_out):
            return (
                f"{100 * row['linear']:.1f} ± {100 * row['std']:.1f}"
                if row["seeds"] > 1
                else f"{100 * row['linear']:.1f}"
            )
    return ""


def _mean(
    rows: Sequence[Json], data: str, system: str, training: str, bits: int | None = None, read_out: str = "refit"
) -> float | None:
    for row in rows:
        found = row["data"], row["system"], row["training"], row["bits"], row["read_out"]
        if found == (data, system, training, bits, read_out):
            value: float = row["linear"]
            return value
    return None


def _how(training: str, read_out: str) -> str:
    if training == "integers":
        return "trained on in integers, read-out refitted"
    return f"after training, read-out {'kept' if read_out == 'kept' else 'refitted'}"


def _bits_words(found: Json) -> str:
    wrong = sum(row.get("mismatches", 0) for row in found["rows"])
    return (
        "Every row is the arithmetic of the integer network; on a few samples each the simulator was compared spike for"
        f" spike: {wrong} mismatches in all rows."
    )


def _sizes(names: Sequence[str]) -> str:
    return "; ".join(
        f"{TITLES[n]}: {CASES[n].train} samples train, {CASES[n].test} test, {CASES[n].recipe['epochs']} epochs,"
        f" layers {'-'.join(map(str, CASES[n].recipe['hidden']))} (local rules: one layer of their sum, one pass)"
        for n in names
    ) + ". Short runs, sized for one CPU core; they say what these settings give, not what is possible."  # fmt: skip


def _pm(figure: Json) -> str:
    return f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f}"


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1])))
