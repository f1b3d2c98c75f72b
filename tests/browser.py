"""A page as a real browser sees it after its scripts ran; tests that need one skip where none is installed."""

import shutil
import subprocess
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# no network, no profile of the user, nothing in the background
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET = [*QUIET.split(), "--disable-component-update", "--disable-sync", "--no-proxy-server"]

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


def seen(page, folder, script=""):
    """The page's HTML after its own scripts, and then `script`, ran; `folder` takes the profile and the copy."""
    copy = folder / "page.html"
    text = page.read_text(encoding="utf-8")
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return seen_at(f"file://{copy}", folder)


def seen_at(address, folder, held=False):
    """The HTML at an address after its scripts ran; `folder` takes the profile.

    A page that is `held` loads an image from /hold of `served`, and is seen once it has asked for /release.
    """
    options = [f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    options += [] if held else ["--virtual-time-budget=5000"]
    command = [BROWSER, *QUIET, *options, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


class _Quiet(SimpleHTTPRequestHandler):
    released: threading.Event

    def do_GET(self):
        if self.path == "/release":
            self.released.set()
        elif self.path == "/hold":
            self.released.wait(100)
        else:
            return super().do_GET()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def served(folder):
    """A folder as a static site on this machine; its address."""
    handler = type("Handler", (_Quiet,), {"released": threading.Event()})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
