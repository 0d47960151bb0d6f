import numpy as np
import pytest

from edgessl.bench import load_bench
from edgessl.bench.drift.run import DETECTORS, GRACE, WARMUP, judge
from edgessl.bench.drift.streams import MADE
from edgessl.errors import ConfigError


def test_judge_by_hand():
    # a sudden change at 1000, noticed after 30; a gradual one from 2000 to 2500, noticed after 600
    delays, false, stable = judge([500, 1030, 1100, 1400, 2600], [(1000, 1001), (2000, 2500)], 4000)
    assert delays == [30, 600]
    assert false == 2  # 500 and 1400; 1100 is within the grace
    assert stable == 4000 - WARMUP - (1 + GRACE) - (500 + GRACE)
    assert judge([5000], [(1000, 1001)], 6000)[0] == []  # too late is not noticed
    assert judge([999], [(1000, 1001)], 2000)[:2] == ([], 1)


@pytest.mark.parametrize("name", MADE)
def test_streams_say_where_they_change(name):
    stream = MADE[name](0)
    assert len(stream.z) == len(stream.statistics) == len(stream.contexts)
    np.testing.assert_allclose(np.linalg.norm(stream.z, axis=1), 1, rtol=1e-5)
    for first, last in stream.changes:
        assert stream.contexts[first - 1] != stream.contexts[last]
    assert MADE[name](0).z.tobytes() == stream.z.tobytes() != MADE[name](1).z.tobytes()


def test_rows():
    result = load_bench("drift")(streams=["recurring"], detectors=["input_cusum", "monitor"], seeds=[0])
    assert [row["detector"] for row in result["rows"]] == ["input_cusum", "monitor"]
    for row in result["rows"]:
        assert row["changes"] == 4
        assert row["detected"] >= 0.75
        assert row["delay_mean"] < 150
    assert result["rows"][0]["known_again"] is None
    assert result["rows"][1]["known_again"] >= 0.5


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"streams": ["flood"]}, "unknown stream 'flood'"),
        ({"detectors": ["nose"]}, f"choose some of {', '.join(DETECTORS)}"),
        ({"seeds": []}, "seeds"),
    ],
)
def test_errors(wrong, says):
    with pytest.raises(ConfigError, match=says):
        load_bench("drift")(**wrong)
