"""Real servers, devices, certificates, proxies and outages (make test-deploy): nothing is lost, or it says why."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from flwr.superlink.routers.control.router import router as control_router
from real_fleet import EDGESSL, NGINX, Fleet, nginx, wait

from edgessl.bench.federated.cable import Cable
from federated import FederationResult, federate_in_process
from federated.deployment import certificates
from federated.deployment.programs import free_port
from federated.deployment.proxy import Proxy
from federated.node import Identity, trust

pytestmark = pytest.mark.deploy

LONG = 15_000  # steps of the test's linear model that take seconds
TRICKS = (
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/pull-messages/../../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/..%2fcontrol%2flist-runs",
    "/v1/control/list-runs?/v1/fleet/pull-messages",
    "//v1/control/list-runs",
    "/V1/fleet/pull-messages",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/runtime/pull-task-input",
    "/docs",
    "/openapi.json",
    "/",
)


@pytest.fixture
def fleet(tmp_path, bundle_path, samples):
    for i in range(2):
        np.save(tmp_path / f"s{i}.npy", samples(100 * (2 * i + 1), seed=i))
    with Fleet(tmp_path / "fleet", bundle_path) as made:
        yield made


def stream(tmp_path, i, steps=10):
    return ("--stream", str(tmp_path / f"s{i}.npy"), "--local-steps", str(steps), "--poll", "0.2", "2")


def run_wait(fleet, *options):
    where = ("--server", str(fleet.server), "--wait", "--json")
    command = (*EDGESSL, "federate", "run", str(fleet.bundle), *where, *options)
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def post(url, tls, body=b""):
    """The status of a POST."""
    request = urllib.request.Request(url, body, {"content-type": "application/protobuf"}, method="POST")
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust(tls / certificates.CA))
    )
    try:
        return opener.open(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.skipif(NGINX is None, reason="no nginx here: apt-get install nginx-light")
def test_devices_learn_through_the_proxy_which_opens_the_fleet_api_alone(fleet, tmp_path, bundle):
    serve = fleet.serve()
    fleet.ready(serve)
    port, tls = free_port(), fleet.tls
    made = subprocess.run(
        [*EDGESSL, "federate", "proxy", str(fleet.server), "--name", "localhost", "--listen", f"127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    files = (tls / certificates.CERTIFICATE, tls / certificates.KEY, tls / certificates.CA)
    proxy = Proxy("localhost", f"127.0.0.1:{port}", f"127.0.0.1:{fleet.port}", *files)
    assert made == proxy.nginx()
    with nginx(tmp_path / "nginx", proxy):
        nodes = [fleet.join(i, *stream(tmp_path, i), server=f"127.0.0.1:{port}") for i in range(2)]
        done = run_wait(fleet, "--rounds", "2")
        assert done.returncode == 0, done.stderr + serve.text
        assert [(r["round"], r["clients"]) for r in json.loads(done.stdout)["rounds"]] == [(1, 2), (2, 2)]
        result = FederationResult.load(fleet.server / "run" / "theta.safetensors", bundle.digest)
        streams = [np.load(tmp_path / f"s{i}.npy") for i in range(2)]
        here = federate_in_process(bundle, streams, rounds=2, local_steps=10, workdir=tmp_path / "here")
        np.testing.assert_allclose(result.theta, here.theta, atol=1e-6)
        print("node memory, MB:", [node.memory() for node in nodes])

        control = [route.path for route in control_router.routes]
        assert len(control) > 20
        through, direct = f"https://localhost:{port}", f"https://localhost:{fleet.port}"
        assert {post(through + path, tls) for path in control} == {403}
        assert {post(through + path, tls) for path in TRICKS} <= {403, 404}
        assert post(direct + "/v1/control/list-runs", tls) == 200  # which is why it must stay on a loopback address
        for way_in in ("/v1/fleet/pull-messages", "/v1/control/../fleet/pull-messages"):  # the same call to nginx
            assert post(through + way_in, tls, b"\x0a\x02\x08\x01") == 401  # no device key
        assert post(through + "/v1/fleet/push-object", tls, b"x" * (25 << 20)) == 413

        wrong = fleet.join(9, server=f"127.0.0.1:{port}", key=_new_key(tmp_path))
        assert wrong.process.wait(30) == 2
        assert "activate-node: HTTP 412 Failed to activate SuperNode" in wrong.text

        failed = run_wait(fleet, "--name", "bad", "--rounds", "2", "--client", "rule=nonsense")
        assert failed.returncode == 2
        assert "is finished:failed" in failed.stderr
        assert "unknown rule 'nonsense'" in failed.stderr


def _new_key(tmp_path):
    Identity.create(tmp_path / "stranger")
    return tmp_path / "stranger"


def test_a_device_killed_while_it_learns_takes_the_round_up_again(fleet, tmp_path):
    serve = fleet.serve("--run", str(fleet.bundle), "--rounds", "2", "--json")
    wait(lambda: "has begun" in serve.text, "the run", serve)
    fleet.join(0, *stream(tmp_path, 0))
    victim = fleet.join(1, *stream(tmp_path, 1, LONG))
    kept = fleet.folder / "state-1" / "letters" / "message"
    wait(kept.exists, "the message", serve, victim)
    time.sleep(0.5)
    victim.kill()
    assert kept.exists()
    again = fleet.join(1, *stream(tmp_path, 1, LONG))
    began = time.monotonic()
    assert serve.process.wait(90) == 0, serve.text
    print(f"killed while it learned: done {time.monotonic() - began:.1f} s after the restart")
    rounds = rounds_of(serve)
    assert [(r["round"], r["clients"], r["failures"]) for r in rounds] == [(1, 2, {}), (2, 2, {})]
    assert len(again.events("delivered")) == 2


@pytest.mark.parametrize("seconds", [20, 85])
def test_a_link_that_was_cut_while_the_device_learned(fleet, tmp_path, seconds):
    """20 s: shorter than two heartbeats, the reply comes late and counts. 85 s: the round goes on without it."""
    cable = Cable(fleet.port)
    serve = fleet.serve("--run", str(fleet.bundle), "--rounds", "2", "--json")
    wait(lambda: "has begun" in serve.text, "the run", serve)
    fleet.join(0, *stream(tmp_path, 0))
    node = fleet.join(1, *stream(tmp_path, 1, LONG), server=f"127.0.0.1:{cable.port}")
    wait((fleet.folder / "state-1" / "letters" / "message").exists, "the message", serve, node)
    cable.cut()
    time.sleep(seconds)
    assert node.events("answered")
    assert not node.events("delivered")
    cable.mend()
    began = time.monotonic()
    assert serve.process.wait(150) == 0, serve.text
    rounds = rounds_of(serve)
    print(f"cut for {seconds} s: rounds took {[round(r['seconds'], 1) for r in rounds]} s; {rounds[0]['failures']}")
    print(f"done {time.monotonic() - began:.1f} s after the link was back; tries: {len(node.events('away'))}")
    if seconds < 60:
        assert [(r["clients"], r["failures"]) for r in rounds] == [(2, {}), (2, {})]
    else:
        assert [r["clients"] for r in rounds] in ([1, 2], [1, 1])
        assert "5" in next(iter(rounds[0]["failures"].values()))  # NODE_UNAVAILABLE
    waits = [event["wait"] for event in node.events("away")]
    assert all(later > 0.9 * earlier for earlier, later in pairwise(waits[:4]))
    cable.close()


def test_a_server_that_was_killed_goes_on_where_it_was(fleet, tmp_path, bundle):
    options = ("--run", str(fleet.bundle), "--rounds", "6", "--json")
    serve = fleet.serve(*options)
    wait(lambda: "has begun" in serve.text, "the run", serve)
    nodes = [fleet.join(i, *stream(tmp_path, i)) for i in range(2)]
    log = fleet.server / "run" / "state" / "lineage.jsonl"
    wait(lambda: log.exists() and log.read_text().count('"round"') >= 2, "two rounds", serve, *nodes)
    serve.kill()  # the command alone: SuperLink and ServerApp are sessions of their own, and go on without it
    first = log.read_text()
    again = fleet.serve(*options)  # it ends what was left, and goes on
    began = time.monotonic()
    assert again.process.wait(150) == 0, again.text
    print(f"server killed: done {time.monotonic() - began:.1f} s after its restart")
    rounds = FederationResult.load(fleet.server / "run" / "theta.safetensors", bundle.digest).rounds
    assert [r["round"] for r in rounds] == [1, 2, 3, 4, 5, 6]
    assert [r["clients"] for r in rounds] == [2] * 6
    for earlier, later in pairwise(rounds):
        assert later["parent"] == earlier["version"]
    assert log.read_text().startswith(first.rpartition("\n")[0])
    assert '"resume"' in log.read_text()
    assert all(node.process.poll() is None for node in nodes)


def test_a_server_certificate_that_expired_is_refused_at_both_ends(fleet, tmp_path):
    certificates.issue_server(fleet.tls, [], days=1, earlier=timedelta(days=2))
    serve = fleet.serve()
    assert serve.process.wait(30) == 2
    assert "expired" in serve.text
    assert "federate certs renews it" in serve.text


def rounds_of(serve):
    """The rounds of the JSON object that `serve --run --json` printed at its end."""
    return json.loads(serve.text[serve.text.index("{\n") :])["rounds"]
