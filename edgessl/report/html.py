"""The demo's HTML page: one file, no script, nothing fetched; light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgessl.device.storage.files import write_atomically
from edgessl.errors import MissingDependencyError
from edgessl.report.results import Results, read_results

TEMPLATES = Path(__file__).parent / "templates"
CURVES = {"pretrain": "Pretraining", "adapt": "Adapting on the device", "federated": "Federation"}
EMBEDDING = {"before": "Before adaptation", "after": "After adaptation"}
SAMPLES = {"before": "Before the drift", "after": "After the drift"}
MEMBERS = {
    "manifest.json": "what the bundle is: inputs, layout, hashes, parity figures",
    "encoder.onnx": "the encoder, float32; its weights are an input",
    "encoder.int8.onnx": "the encoder, quantized to int8",
    "train.onnx": "the training step: forward, backward, optimizer",
    "state.safetensors": "weights and optimizer state to start from",
}


def demo_report(data: Mapping[str, Any], path: Path) -> None:
    """Write the report of a demo run to `path`, by way of a temporary file beside it.

    Required in `data`: `knn`, `drift`, `federated` (accuracies {"mean", "std", "seeds"} in [0, 1]; their keys are in
    `edgessl.report.results`) and `seconds` (a number, or stage -> seconds).

    Optional: `protocol` (title -> text), `curves` (phase -> {"step" or "round", series ...}), `samples` ({"before",
    "after"}: lists of (H, W) arrays in 0..1), `embedding` ({"before", "after"}: {"points" (N, 2), "labels" (N,)}),
    `bundle` (member -> bytes), `parity` (figures, may be nested), `machine`, `versions`, `command`.

    Raises:
        InputError: something in `data` is missing or malformed; the message has its path.
        MissingDependencyError: matplotlib or jinja2 is not installed.
    """
    text = render("demo.html.j2", {"data": data, **_context(data)})
    write_atomically(path, text.encode())


def render(template: str, context: Mapping[str, Any]) -> str:
    """A template of this package with `context`; text is escaped, an unknown name is an error.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError(missing("jinja2", error)) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, points=points, figure=figure, size=size, duration=duration)
    return environment.get_template(template).render(context)


def _context(data: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template shows beyond the plain values of `data`."""
    results = read_results(data)
    try:
        from edgessl.report import images, plots
    except ImportError as error:
        raise MissingDependencyError(missing("matplotlib", error)) from error
    samples, embedding = data.get("samples"), data.get("embedding")
    return {
        "results": results,
        "headlines": headlines(results),
        "bars": {table.key: plots.bars(table) for table in results.tables},
        "curves": [
            (CURVES.get(name, name), plots.curves(name, series))
            for name, series in data.get("curves", {}).items()
            if series
        ],
        "samples": {title: images.data_uris(samples[key], key) for key, title in SAMPLES.items()} if samples else {},
        "scatter": plots.scatter(embedding, EMBEDDING) if embedding else "",
        "parity": list(flat(data.get("parity", {}))),
        "members": MEMBERS,
        "css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
    }


def headlines(results: Results) -> list[dict[str, Any]]:
    """The page's key figures: what was reached, from what, and whether more is better there."""
    knn, drift, federated = (results.table(key) for key in ("knn", "drift", "federated"))
    return [
        {"title": "Pretraining", "what": "against random weights", "now": knn["pretrained"], "was": knn["random"]},
        {"title": "Int8", "what": "against float32", "now": knn["int8"], "was": knn["pretrained"]},
        {
            "title": "New data",
            "what": "adapted against frozen",
            "now": drift["adapted_new"],
            "was": drift["frozen_new"],
        },
        {
            "title": "Old data",
            "what": "adapted against frozen",
            "now": drift["adapted_old"],
            "was": drift["frozen_old"],
        },
        {
            "title": "Federation",
            "what": "against each alone",
            "now": federated["federated"],
            "was": federated["local_mean"],
        },
    ]


def flat(figures: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested figures as (dotted path, value) pairs, in order."""
    for key, value in figures.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from flat(value, name)
        else:
            yield name, value


def percent(fraction: float) -> str:
    """0.1234 -> 12.3."""
    return f"{100 * fraction:.1f}"


def points(difference: float) -> str:
    """A signed difference of fractions in percentage points: 0.0123 -> +1.2, with a real minus sign."""
    text = f"{100 * difference:+.1f}"
    return "±0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def figure(value: Any) -> str:
    """A number as people write it, a list as its numbers, anything else as it is."""
    if isinstance(value, list | tuple):
        return ", ".join(map(figure, value))
    if isinstance(value, float):
        return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def size(count: int) -> str:
    """Bytes as kB or MB (powers of ten)."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def duration(seconds: float) -> str:
    """3.2 s, 4 min 10 s."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def missing(package: str, error: ImportError) -> str:
    """What to say where a package that the report needs cannot be imported."""
    return (
        f"{package} is needed for the HTML report and cannot be imported ({error}); run: pip install 'edgessl[train]'"
    )
