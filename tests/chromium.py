"""Pages in headless Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

# appended to the page: runs the probe and tells what came of it
_TELL = """
<script>
(async () => {PROBE})().catch((error) => ({error: String(error)})).then((told) =>
  fetch("http://127.0.0.1:PORT", {method: "POST", mode: "no-cors", body: JSON.stringify(told)}));
</script>
"""


def in_chromium(page: str, probe: str, folder: Path, width: int) -> dict:
    """Open the page from disk and return what the probe, the body of an asynchronous function, returns there."""
    told, answered = {}, threading.Event()

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self):
            told.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            answered.set()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        file = folder / "page.html"
        file.write_text(page + _TELL.replace("PROBE", probe).replace("PORT", str(server.server_port)), "utf-8")
        quiet = ("background-networking", "component-update", "sync", "gpu", "quic", "dev-shm-usage")
        options = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{part}" for part in quiet)]
        options += ["--autoplay-policy=no-user-gesture-required", f"--user-data-dir={folder / 'profile'}"]
        browser = subprocess.Popen(
            [CHROMIUM, *options, f"--window-size={width},800", file.as_uri()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert answered.wait(60), "the page did not answer within a minute"
        finally:
            browser.terminate()
            browser.wait(10)
            server.shutdown()
    return told
