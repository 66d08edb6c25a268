"""Drives a headless Chromium over a pipe, as a user's mouse would, for tests of pages."""

import base64
import json
import os
import shutil
import subprocess
import time

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--remote-debugging-pipe",
)
_MIDDLE = """(() => {
  const found = [...document.querySelectorAll(SELECTOR)]
    .filter(one => (one.innerText ?? "").includes(TEXT) || one.ariaLabel === TEXT)
    .map(one => one.getBoundingClientRect()).filter(box => box.width && box.height);
  const box = found[found.length - 1];
  return box && [box.x + box.width / 2, box.y + box.height / 2];
})()"""


class Browser:
    """One page.

    Args:
        folder: for the profile and screenshots.
        size: of the window.
    """

    def __init__(self, folder, *, size=(1600, 1000)):
        self.folder = folder
        theirs, self._to = os.pipe()
        self._from, answers = os.pipe()
        words = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder / 'profile'}"]
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{answers}', "bash", *words]  # sh knows 0 to 9 only
        self._process = subprocess.Popen(
            shell, pass_fds=(theirs, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(answers)
        self._number, self._session, self._rest = 0, None, b""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self._call("Page.enable")
        self._call("Emulation.setDeviceMetricsOverride", **_metrics(size))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.terminate()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def open(self, address):
        """Go to an address."""
        self._call("Page.navigate", url=address)

    def resize(self, size):
        """Become a window, or a phone, of another size."""
        self._call("Emulation.setDeviceMetricsOverride", **_metrics(size))

    def value(self, script):
        """Return what an expression gives."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, script, *, seconds=60):
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + seconds
        while not (found := self.value(script)):
            if time.monotonic() > deadline:
                self.picture("stuck")
                raise AssertionError(f"never true in the browser: {script}")
            time.sleep(0.2)
        return found

    def click(self, selector, text=""):
        """Click the middle of the last visible element that a selector finds and that holds a text."""
        script = _MIDDLE.replace("SELECTOR", json.dumps(selector)).replace("TEXT", json.dumps(text))
        place = self.wait(script)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self._call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], **button)

    def write(self, text):
        """Type into what has the focus."""
        self._call("Input.insertText", text=text)

    def picture(self, name, *, whole=False):
        """Keep a screenshot; `whole`: of the page and not only of the window."""
        words = {"captureBeyondViewport": True, "clip": self._page()} if whole else {}
        png = base64.b64decode(self._call("Page.captureScreenshot", **words)["data"])
        (self.folder / f"{name}.png").write_bytes(png)
        return png

    def _page(self):
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        return {**size, "scale": 1}

    def _call(self, method, **words):
        self._number += 1
        message = {"id": self._number, "method": method, "params": words}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self):
        while b"\0" not in self._rest:
            got = os.read(self._from, 1 << 16)
            assert got, "the browser has ended"
            self._rest += got
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)


def _metrics(size):
    return {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
