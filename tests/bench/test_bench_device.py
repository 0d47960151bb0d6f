"""The device bench: both paths, in processes of their own that never load torch."""

import pytest

from edgessl.bench import load_bench
from edgessl.bench.device.run import _together
from edgessl.errors import ConfigError


def test_settings():
    with pytest.raises(ConfigError, match="unknown case 'x'"):
        load_bench("device")(["x"])
    with pytest.raises(ConfigError, match="samples >= 40"):
        load_bench("device")(samples=1)


def test_settle_settings():
    with pytest.raises(ConfigError, match="calls >= 10"):
        load_bench("settle")(calls=1)


@pytest.mark.slow
def test_what_settling_gives():
    (row,) = load_bench("settle")(["ds_cnn_s"], calls=10)["rows"]
    assert row["error"] is None
    assert len(row["observe_ms"]) == len(row["embed_32_ms"]) == 2
    assert row["settle_ms"] > 0
    assert 0 <= row["settled_mb"] < 50


def test_turns_are_put_together():
    turns = [{"open_ms": v, "peak_rss_mb": 10 * v, "lost": 1, "loads_torch": v == 2} for v in (3.0, 1.0, 2.0)]
    assert _together(turns) == {"open_ms": 2.0, "peak_rss_mb": 30.0, "lost": 3, "loads_torch": True}


@pytest.mark.slow
def test_a_device_that_learns_in_the_background():
    result = load_bench("device")(["full", "latent"], turns=1, samples=60)
    assert [row["path"] for row in result["rows"]] == ["full", "latent"]
    for row in result["rows"]:
        assert row["error"] is None
        assert (row["lost"], row["dropped"], row["loads_torch"]) == (0, 0, False)
        assert row["observed"] == 60
        assert 0 < row["observe_p50_ms"] <= row["observe_p99_ms"]
        assert row["written_mb_per_day"] > 0
        assert row["peak_rss_mb"] < 250
        assert row["settled_classify_p50_ms"] > 0
        assert 0 <= row["settled_mb"] < 50
