"""What goes together, asked of every pair, and the table of the page that says it."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from edgessl.device.bundle.specs import ParameterEntry
from edgessl.errors import FederationError
from federated.compatibility import PRIVACY, Plan, plan_of
from federated.privacy.budget import GaussianPrivacy
from federated.privacy.central import CentralPrivacy
from federated.privacy.secure.server import SecureAggregation
from federated.server import make_server_app
from federated.settings import RoundSettings
from federated.strategies import LDAWA, STRATEGIES, FedAdam, FedBuff, Orchestra, StreamingFedAvg, build_strategy

DOCS = Path(__file__).parents[2] / "docs" / "federated_codecs.md"
CODECS = {"whole": "whole", "int8, delta": "int8", "topk, randomk": "topk:0.1+int8"}
OPTIONS = {"krum": {"byzantine": 1}, "multi_krum": {"byzantine": 1, "keep": 2}}
PLANS = [
    *(("codec " + name, {"codec": codec}) for name, codec in CODECS.items()),
    *(("downlink " + name, {"downlink": codec}) for name, codec in CODECS.items()),
    *(("privacy " + kind, {"privacy": kind}) for kind in PRIVACY),
]


def allowed(**choices):
    try:
        Plan(**choices).check()
    except FederationError:
        return False
    return True


def table():
    """The page's table: {(row, strategy): "yes" or "no"}."""
    lines = DOCS.read_text().split("<!-- combinations -->")[1].strip().splitlines()
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {(row[0], name): cell for row in rows for name, cell in zip(head[1:], row[1:], strict=True)}


def test_the_page_says_what_the_code_refuses():
    want = {
        (label, name): "yes" if allowed(strategy=name, **choices) else "no"
        for (label, choices), name in itertools.product(PLANS, STRATEGIES)
    }
    assert table() == want


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"strategy": "median", "codec": "topk:0.1"}, "median compares replies number by number, and codec topk:0.1"),
        ({"strategy": "orchestra", "downlink": "randomk:0.5"}, "orchestra's centroids are replaced"),
        ({"strategy": "krum", "privacy": "secure"}, "strategy krum needs every one; use fedavg or fedadam"),
        ({"strategy": "fedbuff", "privacy": "central"}, "central privacy leaves the server the mean"),
        ({"strategy": "flower", "privacy": "central"}, "strategy flower needs every one"),
        ({"codec": "int8", "privacy": "secure"}, "masked updates are sums of whole vectors, and codec int8"),
        ({"codec": "int8", "privacy": "local+secure"}, "masked updates are sums of whole vectors"),
        ({"over_selection": 1.3, "privacy": "secure"}, "set over_selection to 1"),
        ({"privacy": "homomorphic"}, "privacy 'homomorphic' is unknown; choose one of none, local"),
        ({"codec": "zip"}, "codec 'zip' is unknown"),
    ],
)
def test_every_refusal_says_why_and_what_instead(choices, words):
    with pytest.raises(FederationError, match=words):
        Plan(**choices).check()


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ("ldawa", "orchestra")])
def test_strategies_are_known_by_their_names(name):
    assert plan_of(build_strategy(name, (), OPTIONS.get(name)), RoundSettings(1)).strategy == name


def test_strategies_that_need_a_layout_are_known_too():
    layout = [ParameterEntry("backbone.conv.weight", 0, (4,), "weight")]
    assert plan_of(LDAWA(layout), RoundSettings(1)).strategy == "ldawa"
    assert plan_of(object.__new__(Orchestra), RoundSettings(1)).strategy == "orchestra"


def test_wrapped_strategies_and_others_are_known_too():
    from flwr.serverapp.strategy import FedAvgM

    privacy = GaussianPrivacy(1.0, 1.0, 1e-5, 8.0)
    wrapped = CentralPrivacy(FedAdam(lr=0.1), privacy, cohort=3)
    plan = plan_of(wrapped, RoundSettings(1, downlink="int8", over_selection=1.0), secure=True)
    assert plan == Plan("fedadam", "whole", "int8", "central+secure", 1.0)
    plan.check()
    assert plan_of(FedAvgM(), RoundSettings(1)).strategy == "flower"


@pytest.mark.parametrize(
    "own",
    [
        {"strategy": FedBuff(), "secure": SecureAggregation()},
        {"settings": RoundSettings(1, codec="int8"), "secure": SecureAggregation()},
        {"settings": RoundSettings(1, over_selection=1.5), "secure": SecureAggregation()},
    ],
)
def test_a_server_is_not_even_made(own):
    own = {"settings": RoundSettings(1), "strategy": StreamingFedAvg(), **own}
    with pytest.raises(FederationError):
        make_server_app(np.zeros(4, np.float32), "ab" * 32, own.pop("settings"), **own)
