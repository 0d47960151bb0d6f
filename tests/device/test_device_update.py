"""Updates: fetched in pieces from a server that fails, verified before use; what a device learned moves along."""

import contextlib
import hashlib
import http.server
import threading
from dataclasses import replace

import numpy as np
import pytest

from edgessl.cli.signing import create_keys, read_private_key, sign
from edgessl.device import Bundle, Learner, Trust, pack
from edgessl.device.bundle.download import download
from edgessl.device.update import migrate
from edgessl.errors import BundleError, DownloadError, SignatureError, StateError, UpdateError


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `content`; `plan` says, request by request, what to do: a number cuts the answer after so many bytes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        s = self.server
        s.asked.append((self.headers.get("Range"), self.headers.get("If-Range")))
        action = s.plan.pop(0) if s.plan else "whole"
        if isinstance(action, str) and action.isdecimal():
            self.send_response(int(action))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if s.ranges and self.headers.get("Range") and self.headers.get("If-Range") == s.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start + s.shift}-{len(s.content) - 1}/{len(s.content)}")
        else:
            self.send_response(200)
        body = s.content[start:]
        if s.says_length:
            self.send_header("Content-Length", str(s.claims or len(body)))
        self.send_header("ETag", s.etag)
        self.end_headers()
        self.wfile.write(body[:action] if isinstance(action, int) else body)
        self.close_connection = True


@pytest.fixture
def server(bundle_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.content, server.etag, server.plan, server.asked = bundle_path.read_bytes(), '"v1"', [], []
        server.ranges, server.says_length, server.claims, server.shift = True, True, 0, 0
        server.url = f"http://127.0.0.1:{server.server_address[1]}/model.edgessl"
        server.sha = hashlib.sha256(server.content).hexdigest()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def fetch(server, path, **options):
    return download(server.url, path, **{"sha256": server.sha, "pause_seconds": 0.0, "timeout": 10.0, **options})


def test_a_download_is_resumed_where_it_was_cut(server, bundle, tmp_path):
    server.plan = [1000, 700, "503", 0]
    assert fetch(server, tmp_path / "m").digest == bundle.digest
    ranges = [asked for asked, _ in server.asked]
    assert ranges == [None, "bytes=1000-", "bytes=1700-", "bytes=1700-", "bytes=1700-"]
    assert (tmp_path / "m").read_bytes() == server.content
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_later_call_goes_on(server, bundle, tmp_path):
    server.plan = [1000, 0]
    with pytest.raises(DownloadError, match=r"not complete after 2 attempts; .* another call goes on from there"):
        fetch(server, tmp_path / "m", attempts=2)
    assert not (tmp_path / "m").exists()
    assert fetch(server, tmp_path / "m").digest == bundle.digest
    assert server.asked[-1] == ("bytes=1000-", '"v1"')


def test_a_file_that_changed_meanwhile_is_begun_again(server, bundle, tmp_path):
    good = server.content
    server.content, server.plan = b"x" * 3000, [1000]
    with pytest.raises(DownloadError):
        fetch(server, tmp_path / "m", attempts=1)
    server.content, server.etag = good, '"v2"'
    assert fetch(server, tmp_path / "m").digest == bundle.digest


@pytest.mark.parametrize("fault", ["no ranges", "wrong range"])
def test_servers_that_cannot_resume(server, bundle, tmp_path, fault):
    server.plan, server.ranges, server.shift = [1000], fault != "no ranges", 5 if fault == "wrong range" else 0
    assert fetch(server, tmp_path / "m").digest == bundle.digest


def test_what_is_not_the_file_announced_is_thrown_away(server, tmp_path):
    (tmp_path / "m").write_bytes(b"the old version")
    with pytest.raises(BundleError, match="not the file that was announced"):
        fetch(server, tmp_path / "m", sha256="00" * 32)
    server.content = server.content[:-30] + bytes(30)
    with pytest.raises(BundleError, match="not a readable zip"):
        fetch(server, tmp_path / "m", sha256=hashlib.sha256(server.content).hexdigest())
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").read_bytes() == b"the old version"


def test_only_a_trusted_signature(server, kit, tmp_path):
    create_keys(tmp_path / "key")
    key = read_private_key(tmp_path / "key")
    trust = Trust((key.public_key().public_bytes_raw(),))
    with pytest.raises(SignatureError, match="not signed"):
        fetch(server, tmp_path / "m", sha256=None, trust=trust)
    pack(tmp_path / "signed", kit.manifest, kit.members)
    sign(tmp_path / "signed", key)
    server.content = (tmp_path / "signed").read_bytes()
    assert fetch(server, tmp_path / "m", sha256=None, trust=trust).signed_by


def test_too_large_silent_or_refused(server, tmp_path):
    with pytest.raises(DownloadError, match="at most 100 are allowed"):
        fetch(server, tmp_path / "m", max_bytes=100)
    server.claims = 1 << 40
    with pytest.raises(DownloadError, match="1099511627776 bytes, at most"):
        fetch(server, tmp_path / "m")
    server.claims, server.says_length = 0, False
    with pytest.raises(DownloadError, match="does not say how long"):
        fetch(server, tmp_path / "m")
    server.plan = ["404"]
    with pytest.raises(DownloadError, match="the server says 404"):
        fetch(server, tmp_path / "m")
    with pytest.raises(DownloadError, match="give the sha256"):
        download(server.url, tmp_path / "m")
    with pytest.raises(DownloadError, match="expected an http or https address"):
        download("file:///etc/passwd", tmp_path / "m", sha256="00" * 32)


@pytest.fixture
def lived(bundle, kit, tmp_path):
    with Learner.open(bundle, tmp_path / "old") as learner:
        learner.observe(kit.samples(200))
        learner.enroll(kit.samples(4, seed=1), "a")
        learner.enroll(kit.samples(4, seed=2, shift=1.0), "b")
        learner.learn(max_steps=10)
        learner.save()
        return learner.theta


def version(kit, tmp_path, **changes):
    members = changes.pop("members", kit.members)
    path = tmp_path / f"new{len(list(tmp_path.iterdir()))}.edgessl"
    return pack(path, replace(kit.manifest, name="version 2", **changes), members)


@pytest.mark.parametrize("keep", [False, True])
def test_samples_and_labels_move_to_the_next_version(bundle, kit, tmp_path, lived, keep):
    new = version(kit, tmp_path)
    moved = migrate(bundle, tmp_path / "old", new, tmp_path / "new", keep_weights=keep)
    assert (moved.remembered, moved.labels, moved.weights, moved.left) == (200, ("a", "b"), keep, {})
    with Learner.open(new, tmp_path / "new") as learner, Learner.open(bundle, tmp_path / "old") as old:
        np.testing.assert_array_equal(learner.theta, lived if keep else new.state()["theta"])
        now, before = learner._memory.tensors(), old._memory.tensors()
        assert all(np.array_equal(now[name], before[name]) for name in before)
        assert learner.classify(kit.samples(1, seed=2, shift=1.0)[0]).label == "b"
        assert learner.metrics()["observed"] == 200
        learner.learn(max_steps=2)
        assert learner.mark_good() == 2
    with Learner.open(new, tmp_path / "new") as learner:
        assert learner.metrics()["remembered"] == 200


def test_an_update_that_is_not_marked_good_returns_to_its_factory_state_and_the_old_one_is_whole(
    bundle, kit, tmp_path, lived
):
    new = version(kit, tmp_path)
    migrate(bundle, tmp_path / "old", new, tmp_path / "new", keep_weights=True)
    with Learner.open(new, tmp_path / "new"):
        pass
    with Learner.open(new, tmp_path / "new") as learner:
        assert learner.metrics()["remembered"] == 0
        assert "never marked good" in learner.metrics()["damaged_slots"][0]
    with Learner.open(bundle, tmp_path / "old") as learner:
        np.testing.assert_array_equal(learner.theta, lived)


def test_another_input_is_refused(bundle, kit, tmp_path, lived):
    new = version(kit, tmp_path, input=replace(kit.manifest.input, units="volts"))
    with pytest.raises(UpdateError, match=r"samples were image \[1, 4, 4\] in 'intensity 0..1', the new .* in 'volts'"):
        migrate(bundle, tmp_path / "old", new, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_cannot_move_is_named_or_left(bundle, kit, tmp_path, lived):
    entries = kit.manifest.parameters
    new = version(kit, tmp_path, parameters=(replace(entries[0], name="encoder.w"), *entries[1:]))
    with pytest.raises(UpdateError, match="weights: the new network's parameters are others"):
        migrate(bundle, tmp_path / "old", new, tmp_path / "new", keep_weights=True)
    moved = migrate(bundle, tmp_path / "old", new, tmp_path / "new", keep_weights=True, strict=False)
    assert (moved.weights, moved.remembered, set(moved.left)) == (False, 200, {"weights"})


def test_prototypes_stay_behind(bundle, kit, tmp_path):
    with Learner.open(bundle, tmp_path / "old", exemplar_bytes=0) as learner:
        learner.observe(kit.samples(20))
        learner.enroll(kit.samples(4), "a")
        learner.save()
    new = version(kit, tmp_path)
    moved = migrate(bundle, tmp_path / "old", new, tmp_path / "new", strict=False)
    assert moved.left == {"heads": "prototypes are embeddings of the old encoder"}
    with Learner.open(new, tmp_path / "new", exemplar_bytes=0) as learner:
        assert (learner.metrics()["remembered"], learner.metrics()["labels"]) == (20, [])


def test_where_there_is_nothing_or_something_already(bundle, kit, tmp_path, lived):
    new = version(kit, tmp_path)
    with pytest.raises(StateError, match="nothing was saved here"):
        migrate(bundle, tmp_path / "none", new, tmp_path / "new")
    migrate(bundle, tmp_path / "old", new, tmp_path / "new")
    with pytest.raises(StateError, match="already holds state"):
        migrate(bundle, tmp_path / "old", new, tmp_path / "new")
    with contextlib.closing(Learner.open(bundle, tmp_path / "old")), pytest.raises(StateError, match="another process"):
        migrate(bundle, tmp_path / "old", new, tmp_path / "other")
    assert isinstance(new, Bundle)
