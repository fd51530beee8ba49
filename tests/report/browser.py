"""A headless Chromium, driven over its debugging protocol: enough to load a page, use it and look at it."""

import asyncio
import base64
import contextlib
import itertools
import shutil
import subprocess
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "no Chromium found: `apt-get install chromium` (Debian, Ubuntu), or any Chrome on the path"
SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--hide-scrollbars", "--disable-background-networking", "--disable-extensions", "--remote-debugging-port=0"),
)
T = TypeVar("T")


def executable() -> str | None:
    """The browser on the path."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page. `problems` holds what the console, the network and the content policy complained about."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket, self._ids = loop, socket, itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # without it no element hears of its focus

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(asyncio.wait_for(coroutine, 60))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        return self._run(self._call(method, parameters))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        method, content = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = content["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and content["type"] in {"error", "warning", "assert"}:
            self.problems.append(str([value.get("value") for value in content["args"]]))
        elif method == "Log.entryAdded" and content["entry"]["level"] in {"error", "warning"}:
            self.problems.append(content["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not content["request"]["url"].startswith("data:"):
            self.requests.append(content["request"]["url"])

    def screen(self, width: int, height: int, dark: bool = False, touch: bool = False) -> None:
        """Size in CSS pixels, and the colours the user prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])

    def open(self, file: Path) -> None:
        """Loads a file and waits until its script has run."""
        self.problems.clear()
        self.requests.clear()
        self.call("Page.navigate", url=file.as_uri())
        self.until(f"document.readyState === 'complete' && location.pathname.endsWith({file.name!r})")
        self.until("document.fonts.status === 'loaded'")
        self.frames()

    def frames(self) -> None:
        """Waits until the page has drawn what it was told."""
        self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def until(self, condition: str, seconds: float = 30) -> None:
        """Waits for a condition in JavaScript."""
        end = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < end, f"waited {seconds:g} s in vain: {condition}"
            time.sleep(0.02)

    def js(self, expression: str) -> Any:
        """The value of an expression in the page; of a promise, what it came to."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def point(self, x: float, y: float, kind: str = "mouseMoved") -> None:
        """Moves or presses the mouse at a place in the window."""
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def click(self, x: float, y: float) -> None:
        """Presses the mouse and lets go."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.point(x, y, kind)

    def key(self, name: str) -> None:
        """A key by its name: ArrowRight, Enter, Tab."""
        code = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35}[name]
        text = {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code, **text)

    def shoot(self, path: Path, whole: bool = True) -> Path:
        """A picture of the whole page, or of the window."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))
        return path


@contextlib.contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own in `folder`."""
    program = executable()
    assert program, MISSING
    command = [program, *SWITCHES, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    session = None
    try:
        port = _port(folder / "DevToolsActivePort", process)
        session = loop.run_until_complete(_session())
        socket = loop.run_until_complete(_socket(session, port))
        yield Browser(loop, socket)
    finally:
        if session is not None:
            loop.run_until_complete(session.close())
        process.terminate()
        process.wait(30)
        loop.close()


def _port(file: Path, process: "subprocess.Popen[bytes]", seconds: float = 60) -> int:
    end = time.monotonic() + seconds
    while not (file.exists() and file.read_text().strip()):
        assert process.poll() is None, f"the browser ended with code {process.returncode}"
        assert time.monotonic() < end, "the browser did not start"
        time.sleep(0.05)
    return int(file.read_text().split()[0])


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


async def _socket(session: aiohttp.ClientSession, port: int) -> aiohttp.ClientWebSocketResponse:
    async with session.get(f"http://127.0.0.1:{port}/json") as answer:
        pages = [page for page in await answer.json() if page["type"] == "page"]
    return await session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
