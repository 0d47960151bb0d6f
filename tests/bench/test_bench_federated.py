"""The federated bench: rows have the agreed keys, and the worker checks its own arithmetic."""

import pytest

from edgessl.bench import load_bench
from edgessl.errors import ConfigError

ROW = {
    "level",
    "clients",
    "parameters",
    "seconds",
    "updates_per_second",
    "bytes_up_per_update",
    "bytes_down_per_update",
    "server_peak_rss_mb",
    "node_peak_rss_mb",
}


def test_a_small_cohort_in_a_process_of_its_own(tmp_path):
    result = load_bench("federated")(levels="A", cohorts=[(30, 1000)], out=str(tmp_path / "r.json"))
    (row,) = result["rows"]
    assert set(row) >= ROW
    assert (row["level"], row["clients"], row["parameters"]) == ("A", 30, 1000)
    for key in ("bytes_up_per_update", "bytes_down_per_update"):
        assert 4000 < row[key] < 4600  # 1000 float32, and names
    assert 30 < row["server_peak_rss_mb"] < 300
    assert (tmp_path / "r.json").exists()


def test_an_unknown_level_is_refused():
    with pytest.raises(ConfigError, match="unknown level 'D'; choose among A, C"):
        load_bench("federated")(levels="D")


def test_the_clock_is_fitted_awake_and_judged_asleep():
    """Real rounds made up by another virtual clock: what is fitted is what that one had."""
    from edgessl.bench.federated.swarm import compare, virtual

    sleeps = [2.0, 9.0, 4.0]
    rows = [
        {"parameters": 100, "round_seconds": virtual(100, times, 3, 0.4, 1.0)} for times in ([0.0, 0.0, 0.0], sleeps)
    ]
    found = compare(rows, sleeps, 3)
    assert found["real_asleep_s"] > 9.0
    assert abs(found["error_percent"]) < 7  # the server looks twice a second
