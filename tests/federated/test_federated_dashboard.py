"""The live page: its summary beside counts by hand, its server's refusals, and (deploy) a real headless browser."""

import re
import shutil
import signal
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from edgessl.errors import ConfigError
from federated import RoundSettings, make_server_app, run_local
from federated.checkpoint import LOG
from federated.dashboard.charts import size
from federated.dashboard.serve import application
from federated.dashboard.summary import log_of, read
from federated.lineage import RoundLog

SIZE = 64
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def run_dir(adding_client, digest, tmp_path):
    """Three real rounds of four devices, of which one fails in the second."""
    inner = adding_client({i: (0.5, 10) for i in range(4)}, SIZE)

    def client(message, context):
        if context.node_config["partition-id"] == 2 and message.content["config"]["server-round"] == 2:
            raise RuntimeError("<b>no power</b>")
        reply = inner(message, context)
        number = message.content["config"]["server-round"]
        reply.content["metrics"].update({"effective-rank": 8.0 + number, "embedding-std": 0.5 / number})
        return reply

    settings = RoundSettings(3, min_nodes=4)
    run_local(make_server_app(np.zeros(SIZE, np.float32), digest, settings, state_dir=tmp_path / "state"), client, 4)
    return tmp_path


@pytest.fixture
def browser(run_dir):
    with TestClient(application(log_of(run_dir), "fleet <1>"), base_url="http://127.0.0.1") as client:
        yield client


def test_the_summary_counts_what_happened(run_dir):
    found = read(log_of(run_dir))
    assert [r["clients"] for r in found.rounds] == [4, 3, 4]
    assert set(found.devices) == {"100", "101", "102", "103"}
    assert [(d.asked, d.failed) for d in found.devices.values()] == [(3, 0), (3, 0), (3, 1), (3, 0)]
    assert sum(d.bytes_up for d in found.devices.values()) == found.total("bytes_up") > 11 * 4 * SIZE
    assert found.series("effective-rank") == ([1, 2, 3], [9.0, 10.0, 11.0])
    assert found.version == found.rounds[-1]["version"]
    assert found.failed == ""


def test_refused_and_failed_versions_are_told(tmp_path):
    log = RoundLog(tmp_path / LOG)
    log.append("start")
    log.append("round", round=1, clients=2, failures={}, version="aa")
    log.append("refused", round=2, clients=2, failures={}, version="bb", refused="accuracy fell")
    log.append("failed", number=3, reason="0 of 2 replies")
    found = read(tmp_path / LOG)
    assert (found.version, found.failed) == ("aa", "0 of 2 replies")
    assert [event[1] for event in found.events] == ["failed", "refused", "round", "start"]
    assert found.events[1][3] == "2 replies; refused: accuracy fell"


def test_the_page_needs_nothing_from_elsewhere_and_escapes_what_devices_say(browser):
    frame, part = browser.get("/"), browser.get("/live")
    assert "fleet &lt;1&gt;" in frame.text
    assert re.findall(r'(?:src|href)="(?!#)([^"]+)"', frame.text + part.text) == ["/live.js"]
    assert "default-src 'none'" in frame.headers["content-security-policy"]
    assert "&lt;b&gt;no power" in part.text
    assert "<b>no power" not in part.text
    assert part.text.count("<svg") == 5  # replies, traffic, loss, representation, seconds; no epsilon without privacy
    assert [r["round"] for r in browser.get("/rounds.json").json()] == [1, 2, 3]


def test_the_page_changes_when_the_log_does_and_only_then(browser, run_dir):
    first = browser.get("/live")
    assert browser.get("/live", headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    RoundLog(log_of(run_dir)).append("failed", number=4, reason="the fleet went home")
    later = browser.get("/live", headers={"If-None-Match": first.headers["etag"]})
    assert later.status_code == 200
    assert "the fleet went home" in later.text


def test_epsilon_is_shown_where_there_is_one(tmp_path):
    RoundLog(tmp_path / LOG).append("round", round=1, clients=1, failures={}, version="a", epsilon=3.25, delta=1e-5)
    text = TestClient(application(tmp_path / LOG, "x"), base_url="http://localhost").get("/live").text
    assert "3.25" in text
    assert "delta 1e-05" in text


def test_a_log_before_its_first_round(tmp_path):
    RoundLog(tmp_path / LOG).append("start")
    answer = TestClient(application(tmp_path / LOG, "x"), base_url="http://localhost").get("/live")
    assert "No round has ended yet" in answer.text
    assert "<svg" not in answer.text


def test_other_sites_pages_get_no_answer(browser):
    assert browser.get("/live", headers={"host": "evil.example"}).status_code == 400


def test_a_log_that_was_changed_is_said_to_be(browser, run_dir):
    path = log_of(run_dir)
    path.write_bytes(path.read_bytes().replace(b'"clients":3', b'"clients":4'))
    answer = browser.get("/live")
    assert answer.status_code == 500
    assert "does not follow" in answer.text


def test_a_folder_without_a_log_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no lineage\.jsonl in it"):
        log_of(tmp_path)


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e6, "2 MB"), (3e12, "3000 GB")]
)
def test_sizes(count, words):
    assert size(count) == words


@pytest.mark.deploy
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")
def test_a_real_browser_shows_the_page_and_follows_the_log(run_dir, tmp_path):
    command = [sys.executable, "-m", "edgessl", "federate", "dashboard", str(run_dir), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())[0]
        while True:
            try:
                httpx.get(address)
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        RoundLog(log_of(run_dir)).append("round", round=4, clients=2, failures={"101": "went home"}, version="cc" * 32)
        browser = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        browser += ["--virtual-time-budget=6000", "--window-size=1280,1900"]
        dom = subprocess.run([*browser, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=True)
        assert "went home" in dom.stdout
        assert dom.stdout.count("<svg") == 5
        shot = tmp_path / "page.png"
        subprocess.run([*browser, f"--screenshot={shot}", address], capture_output=True, timeout=120, check=True)
        assert shot.stat().st_size > 20_000
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)
