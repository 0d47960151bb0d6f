"""A learner's counters for whoever collects them: JSON lines, and the text format that Prometheus reads."""

import json
import math
from collections.abc import Mapping
from typing import Any

# name in the snapshot -> (name for Prometheus, its type, what it is)
_METRICS: dict[str, tuple[str, str, str]] = {
    "observed": ("observed_samples_total", "counter", "Samples observed, over all runs."),
    "dropped": ("dropped_samples_total", "counter", "Samples that were not accepted since the queue was full."),
    "queued": ("queued_samples", "gauge", "Samples accepted and not yet remembered."),
    "remembered": ("remembered_samples", "gauge", "Samples in the replay memory."),
    "attempts": ("step_attempts_total", "counter", "Training steps tried, over all runs."),
    "steps": ("steps_total", "counter", "Training steps kept, over all runs."),
    "rejected": ("rejected_steps_total", "counter", "Training steps taken back, over all runs."),
    "rollbacks": ("rollbacks_total", "counter", "Returns to an earlier generation, over all runs."),
    "frozen": ("frozen", "gauge", "1 while learning waits for thaw() after repeated harm."),
    "settled": ("settled", "gauge", "1 while weights are constants of the encoder, see Learner.settle."),
    "repeated_samples": ("repeated_samples_total", "counter", "Samples not remembered: the same again and again."),
    "saturated_values": ("saturated_values_total", "counter", "Values beyond what the memory's codec can hold."),
    "contexts": ("contexts", "gauge", "Different regimes of the stream met so far."),
    "drift_events": ("drift_events_total", "counter", "Changes of the stream that were noticed."),
    "step_seconds": ("step_seconds", "gauge", "What a training step takes, a running mean."),
    "learning_seconds": ("learning_seconds_total", "counter", "Time spent learning by this process."),
    "memory_bytes": ("memory_bytes", "gauge", "Bytes allocated for remembered samples."),
    "exemplar_bytes": ("exemplar_bytes", "gauge", "Bytes allocated for labelled samples."),
    "bytes_written": ("state_bytes_written_total", "counter", "Bytes written to the state directory by this process."),
    "generation": ("generation", "gauge", "Latest generation saved."),
    "saves": ("saves_total", "counter", "Generations saved by this process."),
    "failures": ("failures_total", "counter", "Learning or saving that failed, by this process."),
}


def json_line(snapshot: Mapping[str, Any], **more: Any) -> str:
    """One line of JSON with all of `snapshot` and `more`, a time stamp for instance; no NaN, no newline inside."""
    return json.dumps(_finite({**more, **snapshot}), sort_keys=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def prometheus(snapshot: Mapping[str, Any], **labels: str) -> str:
    """The numbers of `snapshot` in Prometheus' text format 0.0.4, each with `labels`; serve it or write it to a file.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items()))
    lines = []
    for key, (name, kind, what) in _METRICS.items():
        if key in snapshot:
            full = f"edgessl_{name}"
            lines += [f"# HELP {full} {what}", f"# TYPE {full} {kind}"]
            value = int(snapshot[key]) if isinstance(snapshot[key], bool) else snapshot[key]
            lines.append(f"{full}{{{pairs}}} {value}" if pairs else f"{full} {value}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
