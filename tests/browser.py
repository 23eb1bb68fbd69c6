"""Chromium without a window, driven over a pipe by the DevTools protocol (devtools.github.io/devtools-protocol)."""

import base64
import json
import os
import shutil
import subprocess
import time
from contextlib import suppress

__all__ = ["CHROMIUM", "Browser"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One browser with one page, and all that its page and its workers asked the network for or complained about."""

    def __init__(self, folder, width=1280, height=900, dark=False, timeout=60):
        self.timeout, self.requests, self.complaints = timeout, [], []
        self._answers, self._last = {}, 0
        to_browser, ours = os.pipe()
        theirs, from_browser = os.pipe()
        self._out, self._in = os.fdopen(ours, "wb", 0), os.fdopen(theirs, "rb", 0)
        os.set_blocking(theirs, False)
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
            "--disable-background-networking", f"--user-data-dir={folder}", f"--window-size={width},{height}",
            "--remote-debugging-pipe", *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        ]  # fmt: skip
        os.set_inheritable(to_browser, True)
        os.set_inheritable(from_browser, True)
        # The browser reads from its descriptor 3 and writes to 4.
        line = 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", line, str(to_browser), str(from_browser), *command],
            pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._rest = b""
        target = self.call("Target.createTarget", url="about:blank", session=None)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True, session=None)
        self._session = attached["sessionId"]
        self._listen(self._session)
        self.call("Page.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with suppress(OSError, TimeoutError):
            self.call("Browser.close", session=None)
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._in.close()

    def _listen(self, session):
        self.call("Network.enable", session=session)
        self.call("Runtime.enable", session=session)
        with suppress(RuntimeError):  # workers have none
            self.call("Log.enable", session=session)
        options = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True}
        with suppress(RuntimeError):
            self.call("Target.setAutoAttach", session=session, **options)

    def _heard(self, message):
        method, params = message.get("method"), message.get("params", {})
        if "id" in message:
            self._answers[message["id"]] = message
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(params["args"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"])
        elif method == "Target.attachedToTarget":
            self._listen(params["sessionId"])

    def call(self, method, session="", **params):
        """The result of a method of the protocol. Raises RuntimeError where the browser refuses it."""
        self._last = number = self._last + 1
        message = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session or self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self.timeout
        while number not in self._answers:
            if time.monotonic() > end:
                raise TimeoutError(method)
            self._read()
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _read(self):
        chunk = self._in.read(1 << 20)
        if not chunk:
            time.sleep(0.002)
            return
        *messages, self._rest = (self._rest + chunk).split(b"\0")
        for message in messages:
            self._heard(json.loads(message))

    def open(self, url):
        self.call("Page.navigate", url=url)

    def run(self, script):
        """The value of an expression in the page; a promise is waited for. Raises RuntimeError where it throws."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    def until(self, condition):
        """Waits for an expression to be true."""
        end = time.monotonic() + self.timeout
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.01)

    def drag(self, *places):
        """The mouse, pressed, along places in pixels of the window."""
        for kind, (x, y) in zip(["mousePressed", *["mouseMoved"] * len(places)], [places[0], *places], strict=True):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", buttons=0, clickCount=1)

    def touch(self, *places):
        """A finger along places."""
        for kind, point in zip(["touchStart", *["touchMove"] * (len(places) - 1)], places, strict=True):
            points = [dict(zip("xy", point, strict=True))]
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key, text=""):
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **more)

    def picture(self, path):
        """A screenshot of the whole page, as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
