"""`edgessl stream`: a bundle goes on learning from a stream, as a device would; numpy and onnxruntime alone."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from edgessl.cli.console import console, print_json, show_facts
from edgessl.cli.group import examples
from edgessl.cli.options import ByteSize, count, data_options, json_flag, key_values, numbers, open_data


@click.command(
    epilog=examples(
        "edgessl stream model.edgessl digits:test --state runs/device",
        "edgessl stream model.edgessl new.npy --state /var/lib/sensor --memory 1MB --threads 2",
        "edgessl stream model.edgessl sensors.csv --data window=128 --state s --max-seconds 0.2",
        "edgessl stream model.edgessl new.npy --state s --learn-every 16 --steps-per-learn 8 --set lr=0.0003",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data")
@data_options
@click.option("--state", required=True, type=click.Path(path_type=Path), help="Folder of what the device learned.")
@click.option("--memory", type=ByteSize(), default="4MiB", help="Bound of the replay memory.  [default: 4MiB]")
@count("--learn-every", 32, "Samples between bouts of learning.")
@count("--steps-per-learn", 4, "Training steps in each bout; 0 only watches.", least=0)
@click.option("--max-seconds", type=float, metavar="S", help="Time budget of each bout.")
@count("--save-every", 512, "Samples between saves.")
@click.option("--start", type=click.IntRange(0), metavar="N", help="First sample.  [default: where the state left off]")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Samples to take at most.")
@count("--threads", 1, "Compute threads.")
@key_values("--set", "hyper", "A hyperparameter of the training step, such as lr=0.001.", numbers)
@json_flag
def stream(
    bundle: Path,
    data: str,
    data_options: dict[str, Any],
    state: Path,
    memory: int,
    learn_every: int,
    steps_per_learn: int,
    max_seconds: float | None,
    save_every: int,
    start: int | None,
    limit: int | None,
    threads: int,
    hyper: dict[str, float],
    as_json: bool,
) -> None:
    """Let BUNDLE learn on from a stream, as a device would.

    The samples of DATA come in order. Each is embedded, judged for novelty, remembered within --memory and
    watched for drift; every --learn-every samples a few training steps follow. A step that hurts is taken
    back; a collapse rolls back to the last save. Needs numpy, onnxruntime and what reads DATA: for .npy and
    .npz nothing more.

    Ctrl-C and SIGTERM save and end (exit codes 130 and 143). The same command goes on where the state left off.
    """
    source = open_data(data, data_options)
    from edgessl.cli.signals import stop_signals
    from edgessl.cli.stream_display import Display, summary
    from edgessl.cli.stream_loop import Rhythm, drive
    from edgessl.device import Learner, SessionProfile

    profile = SessionProfile(threads=threads)
    with Learner.open(bundle, state, memory_bytes=memory, profile=profile) as learner, stop_signals() as stopped:
        for name, value in hyper.items():
            learner.hyper[name] = value
        first = learner.metrics()["observed"] if start is None else start
        last = len(source) if limit is None else min(len(source), first + limit)
        with Display(learner, f"{bundle.name}: {data} > {state}", first, last) as display:
            rhythm = Rhythm(learn_every, steps_per_learn, max_seconds, save_every)
            drive(learner, source, first, last, rhythm, display, stopped)
        result = {"bundle": str(bundle), "state": str(state), "start": first, **display.result()}
    if stopped:
        display.say(f"stopped by {signal.Signals(stopped[0]).name}; everything is saved")
    if as_json:
        print_json({**result, "interrupted": bool(stopped)})
    else:
        show_facts(console(), summary(result))
    if stopped:
        raise SystemExit(128 + stopped[0])
