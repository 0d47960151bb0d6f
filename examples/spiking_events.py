"""An event camera learns by itself: local rules on N-MNIST events, no label until the read-out, no replay.

    python examples/spiking_events.py                    # needs nmnist_small.npz; EDGESSL_DATA names its folder
    python examples/spiking_events.py --hidden 256 --passes 2 --report runs/spiking_events.html

A layer learns by ESPP with one bit of teaching: whether a window of events goes on where the one before ended (the
three saccades of one recording) or belongs to another recording. Then classes arrive one after another, each once, and
prototypes grow where something is new. Beside it stand the same network with its first weights and the raw events.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from edgessl.errors import EdgeSSLError
from neuromorphic.espp import EchoLearner, adjacency, echo_network, windows
from neuromorphic.pictures import spiking_report, write_report
from neuromorphic.plastic import balance, embed, relearned
from neuromorphic.prototypes import Prototypes
from neuromorphic.spike_data import open_spikes

SIDE = 17  # of the 34 x 34 sensor, pooled by 2


def class_incremental(train, train_labels, test, test_labels) -> tuple[float, float]:
    """Accuracy over all classes after each was shown once, and how much was forgotten of those learned before."""
    prototypes = Prototypes(train.shape[1], 500, novelty=0.7)
    right_then = []
    for label in np.unique(train_labels):
        for z in train[train_labels == label]:
            if z.any():
                prototypes.observe(z, str(label))
        own = test_labels == label
        right_then.append(np.mean([p == str(label) for p in prototypes.classify(test[own])]))
    found = np.array(prototypes.classify(test)) == test_labels.astype(str)
    right_now = [found[test_labels == label].mean() for label in np.unique(train_labels)]
    return float(found.mean()), float(np.mean(np.array(right_then) - right_now))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--recordings", type=int, default=300, help="unlabelled recordings to learn from")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="HTML page of the network that learned")
    given = parser.parse_args()
    try:
        train, test = open_spikes("shared:nmnist_small:train"), open_spikes("shared:nmnist_small:test")
        x, y = train.take(np.arange(len(train))), train.labels
        x_test, y_test = test.take(np.arange(len(test))), test.labels
        network = balance(echo_network(train.shape[1], given.hidden, seed=given.seed), x[:32], 0.1)
        learner = EchoLearner(network)
        rng = np.random.default_rng(given.seed)
        for _ in range(given.passes):
            cut, recording = windows(x[rng.permutation(len(x))[: given.recordings]], 3)
            for k, (window, goes_on) in enumerate(zip(cut, adjacency(recording), strict=True)):
                report = learner.present(window, bool(goes_on))
                print(f"\rwindow {k + 1}/{len(cut)}, rate {report.rate:.3f} ", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        learned = balance(relearned(network, learner.weights()), x[:32], 0.1)  # the rule moves the rate; set it anew
        for name, features in (
            ("events", lambda s: s.reshape(len(s), 3, -1, s.shape[2]).mean(2).reshape(len(s), -1)),
            ("first weights", lambda s: embed(network, s, "hidden", bins=3)),
            ("ESPP, adjacency", lambda s: embed(learned, s, "hidden", bins=3)),
        ):
            accuracy, forgetting = class_incremental(features(x), y, features(x_test), y_test)
            print(f"{name:16} class-incremental accuracy {accuracy:.3f}, forgetting {forgetting:+.3f}")
        if given.report:
            page = spiking_report(learned, x_test[:8], name="N-MNIST, ESPP by adjacency", field=(SIDE, SIDE))
            write_report(page, given.report)
            print(f"written {given.report}")
    except EdgeSSLError as error:
        sys.exit(f"spiking_events: {error}")


if __name__ == "__main__":
    main()
