"""Headless Chromium, driven over its DevTools protocol: opens pages, reads, clicks and takes pictures of them."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FIND = """[...document.querySelectorAll('button, a, [role=menuitem], [role=tab], label, li, span')]
  .filter(e => e.innerText && e.innerText.trim() === WORDS && e.getClientRects().length).at(-1)"""


class Browser:
    """One page of a browser whose profile is in `folder`."""

    def __init__(self, folder: Path):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]
        command = [CHROMIUM, *flags, "--window-size=1400,900", f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = folder / "DevToolsActivePort"
        self.wait_for(lambda: port.exists() and port.read_text().count("\n"), 60, "Chromium does not start")
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port.read_text().split()[0]}/json", timeout=10
        ) as reply:
            pages = json.load(reply)
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self.socket, self.calls = connect(address, max_size=None), 0

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)

    @staticmethod
    def wait_for(condition, seconds: float, complaint: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, complaint
            time.sleep(0.2)

    def call(self, method: str, **params) -> dict:
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv(timeout=30))).get("id") != self.calls:
            pass  # events, which nobody asked for
        assert "error" not in answer, answer
        return answer["result"]

    def evaluate(self, script: str):
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def open(self, url: str, *words: str) -> None:
        """Opens a page and waits until it shows all `words`."""
        self.call("Page.navigate", url=url)
        self.expect(*words)

    def text(self) -> str:
        return self.evaluate("document.body ? document.body.innerText : ''")

    def expect(self, *words: str) -> None:
        for word in words:
            self.wait_for(lambda word=word: word in self.text(), 60, f"no {word!r} on the page")

    def click(self, words: str) -> None:
        """Clicks what says exactly `words`, as soon as it is there."""
        found = FIND.replace("WORDS", json.dumps(words))
        self.wait_for(lambda: self.evaluate(f"!!({found})"), 60, f"nothing to click that says {words!r}")
        self.evaluate(f"({found}).click()")

    def click_until(self, done: Callable[[], bool], *words: str) -> None:
        """Clicks the first of `words` that is there, and again where nothing comes of it in ten seconds.

        A page that still builds itself may miss a click, and a busy server refuse what a form sends when it closes.
        """
        clicked, deadline = 0.0, time.monotonic() + 120
        while not done():
            assert time.monotonic() < deadline, (
                f"nothing came of clicking {words}; the page says: {self.text()}"
            )
            if time.monotonic() > clicked + 10:
                finds = [FIND.replace("WORDS", json.dumps(word)) for word in words]
                if found := next((find for find in finds if self.evaluate(f"!!({find})")), None):
                    self.evaluate(f"({found}).click()")
                    clicked = time.monotonic()
            time.sleep(0.2)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
