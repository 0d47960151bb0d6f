"""A heart monitor that learns its wearer: predictive coding on ECG spikes, on a device that survives power loss.

    python examples/spiking_ecg.py                       # needs qtdb_ecg_spikes.npz; EDGESSL_DATA names its folder
    python examples/spiking_ecg.py --state runs/ecg-device --report runs/spiking_ecg.html

Level-crossing spikes of two leads drive LIF neurons whose plastic synapses predict the next spikes; the error is their
only teacher. Call it again with the same --state: it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgessl.errors import EdgeSSLError
from neuromorphic.device import SpikingLearner
from neuromorphic.energy import dense_twin, ledger
from neuromorphic.local import predictive_coding
from neuromorphic.pictures import spiking_report, write_report
from neuromorphic.plastic import balance, frozen, with_silent
from neuromorphic.prices import price, table
from neuromorphic.simulator import make_simulator
from neuromorphic.spike_data import open_spikes

UNPRICED = ("host_write", "host_read", "graded_operation")  # no table knows them; left out by name


def mean_errors(network, spikes) -> tuple[float, float]:
    """Mean |prediction error| of the error units on samples from rest, nothing learning; and with no prediction."""
    still = frozen(network)
    run = make_simulator(still, len(spikes)).run(with_silent(still, spikes), spikes=False, u=["error"], v=["error"])
    wanted, predicted = (run.v["error"].astype(np.int64), run.u["error"].astype(np.int64))
    return float(np.abs(wanted - predicted).mean()), float(np.abs(wanted).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--samples", type=int, default=100, help="recordings to observe and learn from")
    parser.add_argument("--state", type=Path, help="state directory; otherwise a temporary one")
    parser.add_argument("--report", type=Path, help="HTML page of the network that learned")
    given = parser.parse_args()
    try:
        train, test = open_spikes("shared:qtdb_ecg_spikes:train"), open_spikes("shared:qtdb_ecg_spikes:test")
        x, x_test = train.take(np.arange(min(given.samples, len(train)))), test.take(np.arange(8))
        first = predictive_coding(train.shape[1], given.hidden, feedback="kolen_pollack", shift=6, event=2, exponent=3)
        network = balance(first, x[:8], 0.1)
        with (
            tempfile.TemporaryDirectory() as temporary,
            SpikingLearner.open(network, given.state or temporary, steps=train.shape[0], population="hidden") as device,
        ):
            before, _ = mean_errors(device.current, x_test)
            for start in range(0, len(x), 10):
                device.observe(x[start : start + 10])
                report = device.learn(max_steps=10)
                print(f"observed {device.metrics()['observed']}: {report.steps} steps, rate"
                      f" {report.metrics.get('rate', 0):.3f}", file=sys.stderr)  # fmt: skip
            print(f"saved as generation {device.save()}")
            learned = device.current
            after, nothing = mean_errors(learned, x_test)
            print(f"mean |error| on unseen recordings: {before:.1f} before, {after:.1f} after, {nothing:.1f} without a"
                  " prediction")  # fmt: skip
        record = make_simulator(learned, len(x_test)).run(with_silent(learned, x_test))
        counted, twin = ledger(learned, record), dense_twin(learned, len(x_test), passes=train.shape[0])
        for run, prices in (
            (counted, table("loihi1-2018-presilicon")),
            (twin, table("horowitz-45nm-int8", twin.memory_bytes)),
        ):
            row = price(run, prices, [term for term in UNPRICED if term in run.counts])
            print(f"{row.ledger.subject}: {row.total * 1e6:.2f} µJ per recording ({prices.says}), without"
                  f" {', '.join(row.left_out)}")  # fmt: skip
        if given.report:
            write_report(spiking_report(learned, x_test, name="ECG spikes, predictive coding"), given.report)
            print(f"written {given.report}")
    except EdgeSSLError as error:
        sys.exit(f"spiking_ecg: {error}")


if __name__ == "__main__":
    main()
