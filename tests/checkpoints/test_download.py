"""Downloads from a real HTTP server on this machine, with everything that breaks on the way."""

import errno
import hashlib
import http.server
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxmss.checkpoints import download
from jaxmss.checkpoints.download import cache_directory, fetch
from jaxmss.checkpoints.published import PUBLISHED
from jaxmss.errors import DownloadError

CONTENTS = bytes(range(256)) * 12_000  # 3 MB: a few chunks
MD5 = hashlib.md5(CONTENTS).hexdigest()
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """A file server whose faults are its attributes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents = CONTENTS
        self.etag = '"first"'
        self.last_modified = None
        self.ranges = True  # whether it answers Range at all
        self.if_range = True  # whether it heeds If-Range
        self.statuses: list[int] = []  # the answers to the next requests, before it works
        self.drop_after: list[int] = []  # after how many bytes the next connections break
        self.redirect = False  # whether it sends everybody to where they are
        self.pause = 0.0  # seconds between blocks of 64 KiB
        self.length = True  # whether it states Content-Length
        self.requests: list[str | None] = []  # the Range header of each request
        self.url = f"http://127.0.0.1:{self.server_port}/file"

    def handle_error(self, *_):
        """Say nothing when a client goes away: the tests make it."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server = self.server
        server.requests.append(self.headers["Range"])
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.url)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = self.start()
        if start is not None and start >= len(server.contents):
            self.send_error(416)
            return
        body = server.contents[start or 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(server.contents) - 1}/{len(server.contents)}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.last_modified:
            self.send_header("Last-Modified", server.last_modified)
        self.end_headers()
        if server.drop_after:
            body = body[: server.drop_after.pop(0)]
        for block in range(0, len(body), 1 << 16):
            self.wfile.write(body[block : block + (1 << 16)])
            time.sleep(server.pause)

    def start(self) -> int | None:
        """Return where the answer starts, or None for the whole file."""
        wanted, known = self.headers["Range"], self.headers["If-Range"]
        changed = self.server.if_range and known not in (self.server.etag, self.server.last_modified)
        if not self.server.ranges or wanted is None or changed:
            return None
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", (0.0, 0.0))


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "cache" / "weights.ckpt"


def names(target: Path) -> set[str]:
    """Return what lies in the target's directory."""
    return {path.name for path in target.parent.iterdir()}


def assert_complete(target: Path, contents: bytes = CONTENTS) -> None:
    assert target.read_bytes() == contents
    assert names(target) == {target.name}


def test_a_whole_file_is_fetched_and_checked(server, target):
    assert fetch(server.url, target, size=len(CONTENTS), md5=MD5, sha256=SHA256.upper()) == target
    assert_complete(target)
    assert server.requests == [None]


def test_a_file_that_is_there_is_not_fetched_again(server, target):
    fetch(server.url, target)
    fetch(server.url, target)
    assert len(server.requests) == 1


def test_an_empty_file_is_a_file(server, target):
    server.contents = b""
    fetch(server.url, target)
    assert_complete(target, b"")


@pytest.mark.parametrize(("etag", "last_modified"), [('"v"', None), (None, "Mon, 01 Jan 2024 00:00:00 GMT")])
def test_a_broken_connection_is_continued_where_it_broke(server, target, etag, last_modified):
    server.etag, server.last_modified = etag, last_modified
    server.drop_after = [1_500_000, 700_000]
    fetch(server.url, target, sha256=SHA256)
    assert_complete(target)
    assert server.requests == [None, "bytes=1500000-", "bytes=2200000-"]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_version_a_broken_download_starts_again(server, target, etag):
    server.etag = etag
    server.drop_after = [1_500_000]
    fetch(server.url, target, sha256=SHA256)
    assert_complete(target)
    assert server.requests == [None, None]


def test_a_server_without_ranges_sends_the_whole_again(server, target):
    server.ranges = False
    server.drop_after = [1_500_000]
    fetch(server.url, target, sha256=SHA256)
    assert_complete(target)
    assert server.requests == [None, "bytes=1500000-"]


def break_after(server: Server, target: Path, count: int) -> None:
    """Leave a download behind that got `count` bytes."""
    server.drop_after = [count, 0, 0]
    with pytest.raises(DownloadError, match="the connection broke 3 times"):
        fetch(server.url, target)
    assert not target.exists()
    assert target.with_name(f"{target.name}.part").stat().st_size == count
    server.requests.clear()


def test_a_later_call_continues_an_earlier_one(server, target):
    break_after(server, target, 2_000_000)
    fetch(server.url, target, sha256=SHA256)
    assert_complete(target)
    assert server.requests == ["bytes=2000000-"]


@pytest.mark.parametrize("if_range", [True, False], ids=["If-Range heeded", "If-Range ignored"])
def test_a_file_that_changed_in_between_is_fetched_anew(server, target, if_range):
    break_after(server, target, 2_000_000)
    server.contents, server.etag, server.if_range = CONTENTS[::-1], '"second"', if_range
    fetch(server.url, target)
    assert_complete(target, CONTENTS[::-1])


def test_a_file_that_shrank_in_between_is_fetched_anew(server, target):
    break_after(server, target, 2_000_000)
    server.contents, server.if_range = b"short", False
    fetch(server.url, target)
    assert_complete(target, b"short")


def test_a_part_without_its_version_is_not_trusted(server, target):
    target.parent.mkdir()
    target.with_name(f"{target.name}.part").write_bytes(b"garbage of unknown origin")
    fetch(server.url, target, sha256=SHA256)
    assert_complete(target)


@pytest.mark.parametrize("note", [b"\xff\xfe\0", b'"first"\r\nX: y', b""])
def test_a_part_with_a_damaged_version_is_not_trusted(server, target, note):
    break_after(server, target, 2_000_000)
    target.with_name(f"{target.name}.part.version").write_bytes(note)
    fetch(server.url, target, sha256=SHA256)
    assert_complete(target)
    assert server.requests == [None]


def test_a_redirection_without_end_gets_one_line(server, target):
    server.redirect = True
    assert "redirect" in failure(server.url, target)


def test_a_server_without_a_length_is_believed_when_the_hash_is_right(server, target):
    server.length = False
    fetch(server.url, target, size=len(CONTENTS), sha256=SHA256)
    assert_complete(target)


def failure(server_url: str, target: Path, **expected) -> str:
    with pytest.raises(DownloadError) as error:
        fetch(server_url, target, **expected)
    message = str(error.value)
    assert "\n" not in message
    assert not target.exists()
    return message


@pytest.mark.parametrize("expected", [{"md5": "0" * 32}, {"sha256": "0" * 64}, {"md5": MD5, "sha256": MD5}])
def test_a_wrong_hash_leaves_nothing_behind(server, target, expected):
    message = failure(server.url, target, **expected)
    assert "is not the published file" in message
    assert names(target) == set()


def test_a_wrong_length_without_content_length_leaves_nothing_behind(server, target):
    server.length = False
    server.drop_after = [1000]
    assert "1,000 bytes instead of 3,072,000" in failure(server.url, target, size=len(CONTENTS))
    assert names(target) == set()


def test_a_wrong_length_is_noticed_before_the_download(server, target):
    message = failure(server.url, target, size=7)
    assert "the server has 3,072,000 bytes, but the published file 7" in message
    assert names(target) == set()


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_of_the_server_is_final(server, target, status):
    server.statuses = [status]
    message = failure(server.url, target)
    assert str(status) in message
    assert server.url in message
    assert f"put it at {target}" in message
    assert len(server.requests) == 1


def test_a_server_that_is_busy_is_asked_again(server, target):
    server.statuses = [503, 429]
    fetch(server.url, target)
    assert_complete(target)


def test_a_server_that_stays_busy_is_left_alone(server, target):
    server.statuses = [503] * 3
    assert "broke 3 times (the server answers 503" in failure(server.url, target)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_an_unreachable_host_says_what_to_do_by_hand(target, host):
    url = f"http://{host}:{closed_port()}/weights.ckpt"
    message = failure(url, target)
    assert f"cannot fetch {url}: no connection" in message
    assert f"put it at {target}" in message


def test_a_file_put_there_by_hand_is_taken(target):
    target.parent.mkdir()
    target.write_bytes(b"by hand")
    assert fetch("http://no-such-host.invalid/", target).read_bytes() == b"by hand"


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = failure("http://127.0.0.1:1/", tmp_path / "file" / "weights.ckpt")
    assert f"cannot write {tmp_path / 'file'}" in message
    assert "JAXMSS_CACHE" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable to root")
def test_an_unwritable_directory_is_named(server, target):
    target.parent.mkdir(mode=0o500)
    assert "Permission denied" in failure(server.url, target)


def test_a_full_disk_keeps_what_has_arrived(server, target):
    """A limit on the size of files stands in for the disk: the system refuses the same write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        message = failure(server.url, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert os.strerror(errno.EFBIG) in message
    assert "make room" in message
    fetch(server.url, target, sha256=SHA256)
    assert_complete(target)
    assert server.requests == [None, f"bytes={1 << 20}-"]


def test_two_processes_fetch_one_file_once(server, target):
    server.pause = 0.005
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fetch, args=(server.url, target), kwargs={"sha256": SHA256}) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert_complete(target)
    assert server.requests == [None]


def test_a_killed_download_is_continued(server, target):
    server.pause = 0.05
    program = "import sys, pathlib, jaxmss.checkpoints.download as d; d.fetch(sys.argv[1], pathlib.Path(sys.argv[2]))"
    part = target.with_name(f"{target.name}.part")
    with subprocess.Popen([sys.executable, "-c", program, server.url, str(target)]) as process:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    arrived = part.stat().st_size
    assert 0 < arrived < len(CONTENTS)
    assert not target.exists()

    server.pause = 0.0
    fetch(server.url, target, sha256=SHA256)
    assert_complete(target)
    assert server.requests == [None, f"bytes={arrived}-"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"JAXMSS_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"JAXMSS_CACHE": "~/own"}, "/home/someone/own"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/jaxmss"),
        ({"JAXMSS_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/someone/.cache/jaxmss"),
        ({}, "/home/someone/.cache/jaxmss"),
    ],
)
def test_cache_directory(monkeypatch, variables, expected):
    for name in ("JAXMSS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_directory() == Path(expected)


def test_published_addresses_are_plain_urls():
    assert PUBLISHED["cws-vocals"].url == (
        "https://zenodo.org/record/5175846/files/epoch%3D49-val_loss%3D0.0902_trimed.ckpt?download=1"
    )
    assert PUBLISHED["955717e8"].url == "https://dl.fbaipublicfiles.com/demucs/hybrid_transformer/955717e8-8726e21a.th"
    assert len({weights.url for weights in PUBLISHED.values()}) == len(PUBLISHED) == 8 + 15
    for name, weights in PUBLISHED.items():
        assert name == weights.name
        assert name.startswith(weights.architecture) or weights.architecture.endswith("demucs")
        assert set(weights.scores) <= set(weights.sources)
