"""Downloads from a server on the loopback that errs in every way servers do."""

import hashlib
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest

from jaxtrain.config import DataConfig
from jaxtrain.data import download as module
from jaxtrain.data import sources
from jaxtrain.data.download import download
from jaxtrain.data.published import IdxFile, IdxSet
from jaxtrain.errors import WorldError

BODY = np.random.default_rng(0).bytes(600_000)
SIZE = len(BODY)
MD5 = hashlib.md5(BODY).hexdigest()

ANSWERS = {  # status, body, the length that is promised
    "ok": (200, BODY, len(BODY)),
    "no length": (200, BODY, None),
    "truncated": (200, BODY[:400_000], len(BODY)),
    "truncated, no length": (200, BODY[:400_000], None),
    "too long": (200, BODY + b"x", None),
    "endless": (200, BODY * 20, None),
    "html": (200, b"<html>Sign in</html>", 20),
    "flipped": (200, BODY[:-1] + bytes([BODY[-1] ^ 1]), len(BODY)),
    "500": (500, b"", 0),
    "503": (503, b"", 0),
    "404": (404, b"no", 2),
}


@pytest.fixture
def server(monkeypatch):
    """Serves at /a/b/c first answer a, then b, then c for ever. `server.seen` lists the paths asked for."""
    monkeypatch.setenv("no_proxy", "*")
    asked: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            plan = self.path.strip("/").replace("%20", " ").split("/")
            turn = asked[self.path] = asked.get(self.path, 0) + 1
            status, body, length = self.server.answers[plan[min(turn, len(plan)) - 1]]  # pyright: ignore
            self.send_response(status)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *args):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    http.answers = dict(ANSWERS)  # pyright: ignore[reportAttributeAccessIssue]
    http.seen = asked  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield http
    http.shutdown()
    thread.join()
    http.server_close()


def _url(server, plan):
    return f"http://127.0.0.1:{server.server_port}/{plan.replace(' ', '%20')}"


def _get(server, tmp_path, *plans, **options: Any):
    urls = [_url(server, plan) for plan in plans]
    options = dict(backoff_seconds=0.0, report=lambda line: None) | options
    download(urls, tmp_path / "deep" / "file.gz", md5=MD5, size=SIZE, **options)


WORKS = ["ok", "no length", "500/ok", "truncated/ok", "html/503/ok", "flipped/ok", "truncated, no length/too long/ok"]


@pytest.mark.parametrize("plan", WORKS)
def test_a_faulty_answer_is_asked_for_again(server, tmp_path, plan):
    _get(server, tmp_path, plan)
    assert (tmp_path / "deep" / "file.gz").read_bytes() == BODY
    assert os.listdir(tmp_path / "deep") == ["file.gz"]
    assert list(server.seen.values()) == [plan.count("/") + 1]


def test_the_next_mirror_is_asked_in_the_same_round(server, tmp_path):
    _get(server, tmp_path, "404", "500", "ok", tries=1)
    assert len(server.seen) == 3 and (tmp_path / "deep" / "file.gz").read_bytes() == BODY


FAILS = {
    "truncated": "gave 400000 bytes, expected 600000; began b",
    "truncated, no length": "gave 400000 bytes, expected 600000",
    "too long": "more than the 600000 bytes",
    "html": "gave 20 bytes, expected 600000; began b'<html>Sign in",
    "flipped": f"expected {MD5}",
    "500": "answered 500",
    "404": "answered 404",
}


@pytest.mark.parametrize("plan", FAILS)
def test_what_stays_wrong_is_an_error_and_leaves_nothing(server, tmp_path, plan):
    with pytest.raises(WorldError, match=FAILS[plan]) as error:
        _get(server, tmp_path, plan)
    assert _url(server, plan) in str(error.value)
    assert os.listdir(tmp_path / "deep") == []
    assert list(server.seen.values()) == [1 if plan == "404" else 3]


def test_of_an_answer_that_does_not_end_no_more_than_the_file_is_written(server, tmp_path, monkeypatch):
    written, fetch = [], module._receive
    monkeypatch.setattr(module, "_receive", lambda url, write, *rest: fetch(url, written.append, *rest))
    with pytest.raises(WorldError, match="gave more than the 600000 bytes"):
        _get(server, tmp_path, "endless", tries=1)
    assert 0 < sum(map(len, written)) <= SIZE


def test_what_a_killed_download_left_is_removed_once_it_is_old(server, tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    for name, age in {"file.gz.1.part": 2, "file.gz.2.part": 0.5, "other.gz.1.part": 2, "file.gz.bak": 2}.items():
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, times=(time.time() - age * module.STALE_SECONDS,) * 2)
    _get(server, tmp_path, "ok")
    assert sorted(os.listdir(folder)) == ["file.gz", "file.gz.2.part", "file.gz.bak", "other.gz.1.part"]


def test_an_older_file_stays_until_the_new_one_is_whole(server, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.gz").write_bytes(b"older")
    with pytest.raises(WorldError):
        _get(server, tmp_path, "truncated")
    assert (tmp_path / "deep" / "file.gz").read_bytes() == b"older"


def test_waits_longer_each_round_and_not_after_the_last(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    with pytest.raises(WorldError):
        _get(server, tmp_path, "500", tries=4, backoff_seconds=0.5)
    assert waits == [0.5, 1.0, 2.0]


def test_nobody_there_is_said(tmp_path, server):
    port = server.server_port
    server.shutdown()
    server.server_close()
    with pytest.raises(WorldError, match="could not be reached"):
        download([f"http://127.0.0.1:{port}/ok"], tmp_path / "f", md5=MD5, size=SIZE, tries=1, report=lambda line: None)


def test_a_folder_that_cannot_be_written_is_said(server, tmp_path):
    (tmp_path / "deep").write_bytes(b"a file where the folder should be")
    with pytest.raises(WorldError, match="cannot be written"):
        _get(server, tmp_path, "ok")


def test_load_data_downloads_what_is_missing_into_the_cache(server, tmp_path, monkeypatch):
    images, labels = np.full((20, 4, 4), 9, np.uint8), np.arange(20, dtype=np.uint8) % 10
    files = []
    for name, array in [("ti", images), ("tl", labels), ("vi", images), ("vl", labels)]:
        body = b"".join(int(n).to_bytes(4, "big") for n in (2048 + array.ndim, *array.shape)) + array.tobytes()
        server.answers[f"{name}.gz"] = (200, body, len(body))
        files.append(IdxFile(name, len(body), hashlib.md5(body).hexdigest(), hashlib.sha256(body).hexdigest()))
    monkeypatch.setitem(sources.IDX_SETS, "mnist", IdxSet(tuple(files), (_url(server, ""),), tuple("0123456789")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAXTRAIN_DATA", raising=False)
    lines = []
    config = DataConfig("mnist", val_share=0.5)
    for _ in range(2):
        data = sources.load_data(config, report=lines.append)
        assert data.info.published and data.num_test == 20
        assert data.info.source == str(tmp_path / "jaxtrain" / "data" / "mnist")
    assert len(lines) == 4 and all("downloading" in line for line in lines) and set(server.seen.values()) == {1}
