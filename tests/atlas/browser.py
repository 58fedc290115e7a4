"""A page in headless Chromium, driven by the DevTools protocol, for tests of what a reader does."""

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from choreographer import Browser, Tab

KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "ArrowLeft": (37, ""), "ArrowRight": (39, "")}
"""Windows key code and text of the keys that are not characters."""


def _evaluation(script: str) -> dict[str, Any]:
    return {"expression": script, "returnByValue": True, "awaitPromise": True}


READY = """new Promise((done) => {
  const look = () => (window.atlasReady ? done(window.atlasReady) : setTimeout(look, 10));
  look();
})"""
"""Promise of the time at which the page was drawn."""


class Page:
    """One tab without a network. Every method waits until the browser has answered.

    Args:
        browser: path of a Chrome or Chromium.
        width, height: of the window, in pixels.
    """

    def __init__(self, browser: str, width: int = 1400, height: int = 1000) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._wait(self._start(browser))
        self.resize(width, height)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=120)

    async def _start(self, path: str) -> None:
        self._browser = await Browser(path=path)
        self._tab = await self._browser.create_tab("about:blank")

        async def requested(event: Any) -> None:
            self.requests.append(event["params"]["request"]["url"])

        async def thrown(event: Any) -> None:
            self.errors.append(str(event["params"]["exceptionDetails"]))

        self._tab.subscribe("Network.requestWillBeSent", requested)
        self._tab.subscribe("Runtime.exceptionThrown", thrown)
        for domain in ("Page", "Runtime", "Network"):
            await self._tab.send_command(f"{domain}.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        await self._tab.send_command("Network.emulateNetworkConditions", offline)

    def send(self, command: str, **params: Any) -> dict[str, Any]:
        """Send a command of the protocol; raise RuntimeError where the browser refuses it."""
        answer = self._wait(self._tab.send_command(command, params))
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']}")
        return answer["result"]

    def resize(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def open(self, path: Path) -> float:
        """Load a file and wait until `window.atlasReady`, which is returned: ms from the start."""
        self.send("Page.navigate", url="about:blank")  # whose scripts cannot be taken for the new
        self.requests.clear()
        self.errors.clear()
        self.send("Page.navigate", url=path.as_uri())
        return self.run(READY)

    def run(self, script: str) -> Any:
        """The JSON value of an expression, or of what it promises."""
        answer = self.send("Runtime.evaluate", **_evaluation(script))
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def run_in_frame(self, script: str) -> Any:
        """The same in the page's one frame, in a process of its own, when it has been drawn."""
        return self._wait(self._evaluate_in_frame(f"{READY}.then(() => {script})"))

    async def _evaluate_in_frame(self, script: str) -> Any:
        found = await self._browser.send_command("Target.getTargets")
        # Of the kind that Jupyter shows: the browser's own new tab may hold frames of other kinds.
        (frame,) = [one for one in found["result"]["targetInfos"] if one["url"] == "about:srcdoc"]
        target = Tab(frame["targetId"], self._tab._broker)
        await target.create_session()
        answer = await target.send_command("Runtime.evaluate", _evaluation(script))
        return answer["result"]["result"].get("value")

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({selector!r}).textContent")

    def visible(self, selector: str) -> bool:
        return self.run(f"document.querySelector({selector!r})?.checkVisibility() ?? false")

    def press(self, *keys: str) -> None:
        """Press and release keys: single characters, or names in `KEYS`."""
        for key in keys:
            code, text = KEYS[key] if key in KEYS else (ord(key.upper()), key)
            about = {"key": key, "windowsVirtualKeyCode": code}
            shown = {"text": text} if text else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", **about, **shown)
            self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def hover(self, selector: str) -> tuple[float, float]:
        """Scroll the element into view and put the mouse on it."""
        box = self.run(
            f"(() => {{ const one = document.querySelector({selector!r});"
            " one.scrollIntoView({ block: 'center' }); const box = one.getClientRects()[0];"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        # away first: only a pointer that enters an element is seen
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
        return tuple(box)

    def click(self, selector: str) -> None:
        x, y = self.hover(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def choose(self, name: str, value: str) -> None:
        """Set a form control by its id, as a reader's choice."""
        self.run(
            f"(() => {{ const one = document.getElementById({name!r}); one.value = {value!r};"
            " one.dispatchEvent(new Event('change', { bubbles: true })); })()"
        )

    def close(self) -> None:
        self._wait(self._browser.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
