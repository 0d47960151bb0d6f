"""Pictures of spiking networks as inline SVG in the page's own colors, and the page they stand on.

write_report(spiking_report(network, spikes), "report.html")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.device.storage.files import write_atomically
from edgessl.errors import InputError, MissingDependencyError
from edgessl.report.html import TEMPLATES, missing, render
from neuromorphic.energy import Ledger, dense_twin, ledger, neurobench
from neuromorphic.network import IntegerNetwork
from neuromorphic.plastic import with_silent
from neuromorphic.populations import LIF, ErrorUnit
from neuromorphic.prices import Priced, price, table
from neuromorphic.record import Record
from neuromorphic.simulator import make_simulator

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

    from edgessl.report.svg import BASELINE, CLASSES, INK, MUTED, OURS, PAGE, RULE, STYLE, VARIANT, figure, to_svg
except ImportError as error:
    raise MissingDependencyError(missing("matplotlib", error)) from error

Array = np.ndarray[Any, np.dtype[Any]]
MOST = 300  # neurons of a raster; of larger populations evenly spaced ones are shown
TILES = 32
POSITIVE, NEGATIVE = (0.10, 0.58, 0.55), (0.85, 0.45, 0.12)  # readable on light and dark
HOST = ("host_write", "host_read")
PROCESSOR, CHIP = "horowitz-45nm-int8", "loihi1-2018-presilicon"


def raster(groups: Mapping[str, Array]) -> str:
    """A dot per spike over time, group under group, at most MOST neurons of each.

    Args:
        groups: name -> (T, n) spikes; what is not 0 is a dot, negative ones in another color.
    """
    if not groups:
        raise InputError("raster: no population was given")
    shown = {name: _thinned(np.asarray(spikes)) for name, spikes in groups.items()}
    rows = [spikes.shape[1] for spikes in shown.values()]
    height = 60 + 26 * len(rows) + 1.1 * sum(rows)
    with matplotlib.rc_context(STYLE):
        drawing = figure(height)
        drawing.set_layout_engine("constrained")
        grid = drawing.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=[max(n, 20) for n in rows])
        for k, (axes, (name, spikes)) in enumerate(zip(grid[:, 0], shown.items(), strict=True)):
            for sign, color in ((1, (BASELINE, OURS)[k > 0]), (-1, VARIANT)):
                when, which = np.nonzero(np.sign(spikes) == sign)
                nowhere = np.full(len(when), np.nan)
                # one path for all strokes: an element per spike would make megabytes
                x, y = np.stack([when, when, nowhere], 1), np.stack([which, which + 0.9, nowhere], 1)
                axes.plot(x.ravel(), y.ravel(), color=color, linewidth=1.4, solid_capstyle="butt")
            axes.set_title(f"{name}: {np.count_nonzero(groups[name]):,} spikes of {groups[name].shape[1]:,} neurons")
            axes.set_ylim(-1, spikes.shape[1])
            axes.set_xlim(-0.5, len(spikes) - 0.5)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.tick_params(length=0)
        grid[-1, 0].set_xlabel("step")
        grid[-1, 0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    said = "; ".join(f"{name} {np.count_nonzero(s):,} spikes" for name, s in groups.items())
    return to_svg(drawing, "raster", f"Raster of spikes over {len(next(iter(groups.values())))} steps: {said}.")


def membranes(voltage: Array, spikes: Array, threshold: float, neurons: Sequence[int]) -> str:
    """Voltages of some neurons over time in thresholds, a dot where each fired.

    Args:
        voltage: (T, n) after reset, so that a spike's peak is not seen.
        spikes: (T, n).
        threshold: of the voltage.
        neurons: indices, at most 10.
    """
    chosen = list(neurons)[: len(CLASSES)]
    with matplotlib.rc_context(STYLE):
        drawing = figure(230)
        drawing.set_layout_engine("constrained")
        axes = drawing.subplots()
        for k, neuron in enumerate(chosen):
            line = np.asarray(voltage)[:, neuron] / threshold
            axes.plot(line, color=CLASSES[k], linewidth=1.3)
            when = np.flatnonzero(np.asarray(spikes)[:, neuron])
            axes.plot(when, np.ones(len(when)), "o", color=CLASSES[k], markersize=4, markeredgewidth=0)
        axes.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlabel("step")
        axes.set_ylabel("voltage / threshold")
        _plain(axes)
    fired = int(np.count_nonzero(np.asarray(spikes)[:, chosen]))
    return to_svg(drawing, "membranes", f"Voltages of {len(chosen)} neurons; they fire {fired} times.")


def prediction_error(lines: Mapping[str, Array], window: int = 50) -> str:
    """Mean magnitude of the prediction error over time, smoothed over `window` steps; (T,) per name."""
    with matplotlib.rc_context(STYLE):
        drawing = figure(230)
        drawing.set_layout_engine("constrained")
        axes = drawing.subplots()
        for k, (name, values) in enumerate(lines.items()):
            series = np.asarray(values, np.float64)
            width = max(1, min(window, len(series) // 4))
            mean = np.convolve(series, np.ones(width) / width, "valid")
            color = (OURS, BASELINE, VARIANT)[k % 3]
            axes.plot(np.arange(len(mean)) + width - 1, mean, color=color, linewidth=1.8, label=name)
        axes.set_xlabel("step")
        axes.set_ylabel("mean |error|")
        axes.set_ylim(bottom=0)
        _plain(axes)
        axes.legend(frameon=False, labelcolor=INK, fontsize=12)
    said = "; ".join(f"{n} from {np.mean(v[:window]):.3g} to {np.mean(v[-window:]):.3g}" for n, v in lines.items())
    return to_svg(drawing, "error", f"Prediction error over time: {said}.")


def receptive_fields(weights: Array, shape: tuple[int, int], channels: int = 1) -> str:
    """Weights of up to TILES neurons as images, positive and negative in two colors, each to its own largest.

    Args:
        weights: (n, channels * H * W); of several channels the first two are subtracted (ON minus OFF).
        shape: (H, W).
        channels: of the input.

    Raises:
        InputError: the shapes do not fit.
    """
    w = np.asarray(weights, np.float64)
    if w.ndim != 2 or w.shape[1] != channels * shape[0] * shape[1]:
        raise InputError(f"receptive fields: expected (n, {channels} * {shape[0]} * {shape[1]}), found {w.shape}")
    strongest = np.argsort(-np.abs(w).sum(1), kind="stable")[:TILES]
    images = w[np.sort(strongest)].reshape(-1, channels, *shape)
    tiles = images[:, 0] - images[:, 1] if channels > 1 else images[:, 0]
    tiles = tiles / np.maximum(np.abs(tiles).max((1, 2), keepdims=True), 1e-12)
    columns = min(8, len(tiles))
    rows = -(-len(tiles) // columns)
    high, wide = shape[0] + 2, shape[1] + 2
    sheet = np.zeros((rows * high, columns * wide))
    for k, tile in enumerate(tiles):
        top, left = k // columns * high + 1, k % columns * wide + 1
        sheet[top : top + shape[0], left : left + shape[1]] = tile
    picture = np.empty((*sheet.shape, 4))
    picture[..., :3] = np.where(sheet[..., None] > 0, POSITIVE, NEGATIVE)
    picture[..., 3] = np.abs(sheet)
    height = 720 * len(sheet) / sheet.shape[1]
    with matplotlib.rc_context(STYLE):
        drawing = figure(height)
        axes = drawing.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow(picture, interpolation="nearest", aspect="auto")
    return to_svg(drawing, "fields", f"Receptive fields of {len(tiles)} neurons of {len(w)}.")


def energy_breakdown(rows: Sequence[Priced]) -> str:
    """Joules per sample of several ledgers, stacked by term, on one axis; only ledgers whose total is not refused."""
    terms = list(dict.fromkeys(line.term for row in rows for line in row.lines))
    unit, name = _unit(max(row.total for row in rows))
    height = 46 * len(rows) + 90
    with matplotlib.rc_context(STYLE):
        drawing = figure(height)
        drawing.set_layout_engine("constrained")
        axes = drawing.subplots()
        for y, row in enumerate(rows):
            left = 0.0
            for line in row.lines:
                width = (line.joules or 0.0) / row.ledger.samples / unit
                axes.barh(y, width, left=left, height=0.55, color=CLASSES[terms.index(line.term) % len(CLASSES)],
                          edgecolor=PAGE, linewidth=0.8)  # fmt: skip
                left += width
            axes.text(left, y, f"  {row.total / unit:.3g} {name}", va="center", color=INK, fontsize=12)
        axes.set_yticks(range(len(rows)), [f"{row.ledger.subject}" for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.16)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{name} per sample")
        _plain(axes, "x")
        handles = [matplotlib.patches.Patch(color=CLASSES[k % len(CLASSES)]) for k in range(len(terms))]
        drawing.legend(handles, [t.replace("_", " ") for t in terms], loc="outside lower center", ncols=4,
                       frameon=False, labelcolor=INK, fontsize=11)  # fmt: skip
    said = "; ".join(f"{row.ledger.subject} {row.total:.3g} J" for row in rows)
    return to_svg(drawing, "energy", f"Energy per sample by term: {said}.")


def error_magnitude(network: IntegerNetwork, record: Record, population: str) -> Array:
    """Mean |target - prediction| >> shift of an error unit over lanes and neurons, (T,), from its recorded u and v."""
    unit = network.population(population)
    if not isinstance(unit, ErrorUnit):
        raise InputError(f"{population!r} is of kind {unit.kind!r}; expected an error unit")
    found: Array = np.abs((record.v[population] - record.u[population]) >> unit.shift).mean((0, 2))
    return found


def spiking_report(
    network: IntegerNetwork,
    spikes: Array,
    *,
    name: str = "network",
    field: tuple[int, int] | None = None,
    engine: str = "auto",
) -> dict[str, Any]:
    """Run the network from rest on `spikes` and gather what the page shows, energies by every table included.

    Args:
        network: any; plastic connections learn during the run.
        spikes: (N, T, n) of its first input.
        name: of the page.
        field: (H, W) of the input, where it is an image, for the receptive fields of what it drives.
        engine: see `simulator.make_simulator`.
    """
    record = make_simulator(network, len(spikes), engine).run(with_silent(network, spikes), u=True, v=True)
    counted = ledger(network, record)
    lif = next((p for p in network.populations if isinstance(p, LIF)), None)
    errors = [p.name for p in network.populations if isinstance(p, ErrorUnit)]
    first = network.inputs[0].name
    pictures = dict.fromkeys(("membranes", "error", "fields", "energy"), "")  # empty: nothing of that kind to show
    pictures["raster"] = raster({first: spikes[0], **{n: s[0] for n, s in record.spikes.items()}})
    if lif is not None:
        busiest = np.argsort(-record.spikes[lif.name][0].astype(bool).sum(0), kind="stable")[:4]
        pictures["membranes"] = membranes(
            record.v[lif.name][0], record.spikes[lif.name][0], max(lif.vth, 1) << 6, busiest.tolist()
        )
    if errors:
        pictures["error"] = prediction_error({n: error_magnitude(network, record, n) for n in errors})
    if field is not None:
        drive = next(c for c in network.connections if c.pre == first)
        weights = record.weights[drive.name][0] if drive.name in record.weights else drive.weights
        pictures["fields"] = receptive_fields(weights, field, weights.shape[1] // (field[0] * field[1]))
    rows = compare_energy(network, counted)
    known = [row for row in rows if row.table.name == PROCESSOR and not row.unknown]
    if known:
        pictures["energy"] = energy_breakdown(known)
    return {
        "name": name,
        "samples": len(spikes),
        "steps": int(spikes.shape[1]),
        "network": {
            "populations": {p.name: {"kind": p.kind, "size": p.size} for p in network.populations},
            "connections": {c.name: {"shape": list(c.weights.shape), "bits": c.bits} for c in network.connections},
        },
        "ledger": counted.to_json(),
        "energy": [row.to_json() for row in rows],
        "neurobench": neurobench(network, record),
        "pictures": pictures,
    }


def compare_energy(network: IntegerNetwork, counted: Ledger, passes: int = 1) -> list[Priced]:
    """The spiking ledger by the chip's table and by the processor's, and the dense int8 twin by the latter.

    Host traffic is left out everywhere, by name, and learning where the processor's table does not know it.
    """
    rows = []
    for subject, name in (
        (counted, CHIP),
        (counted, PROCESSOR),
        (dense_twin(network, counted.samples, passes=passes), PROCESSOR),
    ):
        prices = table(name, subject.memory_bytes)
        left_out = [t for t in (*HOST, "weight_update") if subject.counts.get(t) and t not in prices.prices]
        rows.append(price(subject, prices, left_out))
    return rows


def write_report(data: Mapping[str, Any], path: Path) -> None:
    """Write the page of `spiking_report` to `path`, and its figures beside it as JSON; whole or not at all.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    text = render("neuro.html.j2", {"data": data, "css": (TEMPLATES / "report.css").read_text(encoding="utf-8")})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    plain = {key: value for key, value in data.items() if key != "pictures"}
    write_atomically(path.with_suffix(".json"), json.dumps(plain, indent=2, allow_nan=False).encode())


def _thinned(spikes: Array) -> Array:
    n = spikes.shape[1]
    return spikes if n <= MOST else spikes[:, np.linspace(0, n - 1, MOST).astype(np.int64)]


def _unit(joules: float) -> tuple[float, str]:
    for size, name in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")):
        if joules >= size:
            return size, name
    return 1e-12, "pJ"


def _plain(axes: Axes, grid: str = "y") -> None:
    axes.tick_params(length=0)
    axes.grid(axis="x" if grid == "x" else "y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
