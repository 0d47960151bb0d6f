"""What the spiking networks cost and how fast they are simulated, as sections of the page docs/spiking.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
TITLES = {
    "fashion_mnist": "Fashion-MNIST", "nmnist_small": "N-MNIST (small)", "fsdd": "FSDD (spoken digits)",
    "qtdb_ecg_spikes": "ECG spikes (QTDB)",
}  # fmt: skip
SPEEDS = {("784-256-128", 1): 20, ("784-256-128", 256): 100, ("784x128 learning", 1): 20}
ENERGY = """Means per sample over {samples} test samples (learning: over training samples). Counts are exact. Joules are
estimates by published tables, host traffic left out by name; a star: learning left out too. *Loihi 1* is the 2018
table, simulated before silicon, minima: a lower bound for that chip and no statement about Loihi 2, for which no
energies of operations are published. The twin has the same layers as an int8 network without spikes, run once per
sample, or at every step where the data are a series."""
BANDS = """Bands (every price at its lowest and highest) and the widest single sensitivity (a price times or over
{factor:g}) stand in the JSON file, with NeuroBench's metrics: same names and definitions, checked against the
neurobench 2.3.0 package by a test that runs where it is installed."""


def energy(found: Json) -> str:
    """Counts and prices of the trained networks beside their dense twins."""
    text = ["## Counts and energy", "", ENERGY.format(**found["settings"]), machine_words(found), ""]
    body = []
    for row in found["rows"]:
        counts, per = row["ledger"]["counts"], row["samples"]
        joules = {(p["subject"], p["table"]): p for p in row["priced"]}
        body.append([
            TITLES[row["data"]], row["network"], *(f"{counts.get(t, 0) / per:,.0f}" for t in (
                "synaptic_operation", "driven_update", "idle_update", "spike", "weight_update")),
            _joules(joules.get(("spiking", "loihi1-2018-presilicon"))),
            _joules(joules.get(("spiking", "horowitz-45nm-int8"))),
            _joules(joules.get(("dense int8 twin", "horowitz-45nm-int8"))),
        ])  # fmt: skip
    heads = ["data", "network", "synaptic operations", "driven updates", "idle updates", "spikes", "weight updates",
             "Loihi 1 table, µJ", "45 nm int8 + SRAM, µJ", "dense int8 twin, 45 nm, µJ"]  # fmt: skip
    text += markdown_table(heads, body, 8, 2)
    cheaper = [
        f"{TITLES[row['data']]} ({row['network']})" for row in found["rows"]
        if (own := _priced(row, "spiking")) and (twin := _priced(row, "dense int8 twin")) and own < twin
    ]  # fmt: skip
    text += ["", "By the 45 nm table the spiking network is cheaper than its dense int8 twin on: "
             f"{', '.join(cheaper) or '**none of these**'}."]  # fmt: skip
    text += ["", BANDS.format(**found["settings"]), ""]
    return "\n".join(text)


def _priced(row: Json, subject: str) -> float | None:
    for priced in row["priced"]:
        if priced["subject"] == subject and priced["table"] == "horowitz-45nm-int8":
            found: float | None = priced["joules_per_sample"]
            return found
    return None


def speed(found: Json) -> str:
    """Steps per second beside Lava's, and whether targets are met."""
    text = ["## Speed", "", "`edgessl bench neuro --json`: sample-steps per second, spikes recorded; the median turn.",
            machine_words(found), ""]  # fmt: skip
    body = [[r["network"], r["simulator"], str(r["batch"]), f"{r['steps_per_second']:,.0f}",
             f"{r['ratio_to_lava']:.1f} x" if r["ratio_to_lava"] else "", str(r["mismatches"])]
            for r in found["rows"]]  # fmt: skip
    text += markdown_table(["network", "simulator", "batch", "steps/s", "of Lava", "mismatches"], body, 4, 2)
    for (network, batch), wanted in SPEEDS.items():
        for row in found["rows"]:
            if (row["network"], row["simulator"], row["batch"]) == (network, "compiled", batch) and row[
                "ratio_to_lava"
            ]:
                met = "met" if row["ratio_to_lava"] >= wanted else "**not met**"
                text.append(
                    f"\nTarget, {network}, batch {batch}: {wanted} x Lava: {met} ({row['ratio_to_lava']:.1f} x)."
                )
    text += [*(f"\nWarning: {w}" for w in found["warnings"]), ""]
    return "\n".join(text)


def conformance(found: Json) -> str:
    """What was compared with Lava."""
    s = found["summary"]
    families = ", ".join(f"{n} {name}" for name, n in s["families"].items() if n)
    compared = ", ".join(f"{n:,} {kind}" for kind, n in s["compared"].items())
    return "\n".join([
        "## Conformance with Lava 0.10.0", "",
        f"{s['networks']} networks ({families}), {s['steps']:,} steps: {compared} compared, "
        f"{sum(s['mismatches'].values())} mismatches. {s['nonzero_spikes']:,} spikes fired and "
        f"{s['weights_changed']:,} weights changed meanwhile. Again: `{found['command']}`.", "",
    ])  # fmt: skip


def machine_words(found: Json) -> str:
    """On what a bench ran."""
    m = found["machine"]
    return f"Measured on {m['cpu']}, {m['cores']} cores, shared with other work."


def _joules(priced: Json | None) -> str:
    if priced is None:
        return ""
    value = priced["joules_per_sample"]
    note = "*" if "weight_update" in priced["left_out"] else ""
    return "refused" if value is None else f"{1e6 * value:,.2f}{note}"


def markdown_table(heads: Sequence[str], body: Sequence[Sequence[str]], numbers: int, before: int = 1) -> list[str]:
    """Lines of a Markdown table: `before` columns of text, then `numbers` to the right, then text."""
    rule = "|" + "---|" * before + "---:|" * numbers + "---|" * (len(heads) - before - numbers)
    return ["| " + " | ".join(heads) + " |", rule, *("| " + " | ".join(row) + " |" for row in body)]
