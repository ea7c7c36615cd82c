"""The page in a real browser: it runs, sorts, filters, shows values, fits a phone.

`Browser` speaks the DevTools protocol over a pipe (JSON messages that end in
a NUL, on descriptors 3 and 4 of the browser), with the standard library alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sedabench.report import write
from tests.sedabench.conftest import write_run
from tests.sedabench.invented_overload import write_overload_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)  # fmt: skip  # noqa: E501
DEADLINE_S = 60.0

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or shutil.which("bash") is None,
    reason="no chromium here (apt-get install chromium)",
)


class Browser:
    """A headless Chromium with one page; `said` is every event that came from it."""

    def __init__(self, home: Path) -> None:
        assert CHROMIUM is not None
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_child, from_child)]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", CHROMIUM,
             "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", f"--user-data-dir={home}", "--remote-debugging-pipe"],
            pass_fds=ends, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "HOME": str(home), "TMPDIR": str(home)},
        )  # fmt: skip
        for end in (to_child, from_child, *ends):
            os.close(end)
        self._unread = b""
        self._last = 0
        self._session: str | None = None
        self.said: list[dict[str, Any]] = []
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser; return its answer."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.said.append(answer)

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + DEADLINE_S
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser says nothing"
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has ended"
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def open(
        self, page: Path, *, width: int = 1200, height: int = 900, phone: bool = False
    ) -> None:
        """Load a page in a window of that size, until its scripts have run."""
        self.said.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=phone)  # fmt: skip
        self.call("Page.navigate", url=page.as_uri())
        end = time.monotonic() + DEADLINE_S
        loaded = "location.protocol === 'file:' && document.readyState === 'complete'"
        while not self.value(loaded):
            assert time.monotonic() < end, "the page does not load"

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """`kind`: mouseMoved, mousePressed or mouseReleased."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def complaints(self) -> list[str]:
        """What stands in the console, errors that nobody caught, and requests but the page."""
        self.value("0")  # what was said before this answer has arrived
        found = []
        for message in self.said:
            method, params = message.get("method"), message.get("params", {})
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(json.dumps(params))
            if method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if params["type"] != "Document" and not url.startswith("data:"):
                    found.append(f"it asks for {url}")
        return found

    def close(self) -> None:
        os.close(self._write)
        os.close(self._read)
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both experiments on one page, an invalid trial in each."""
    folder = tmp_path_factory.mktemp("runs")
    figure1 = write_run(folder / "figure1", invalid=[(3, "the load generator refused 7 bursts")])
    overload = write_overload_run(folder / "overload", invalid={20: "send lag p99 was 61 ms"})
    return write([figure1, overload], folder / "page.html")


def centre(browser: Browser, selector: str) -> tuple[float, float]:
    """Scroll to an element; where its middle is in the window."""
    browser.value(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
    x, y = browser.value(
        f"(b => [b.x + b.width / 2, b.y + b.height / 2])"
        f"(document.querySelector({selector!r}).getBoundingClientRect())"
    )
    return float(x), float(y)


TIP = "[...document.querySelectorAll('.tip')].filter(t => !t.hidden).map(t => t.innerText).join()"
SHOWN = "[...document.querySelectorAll('#run1 .sortable tbody tr')].filter(r => !r.hidden)"


def column(browser: Browser, name: str) -> list[str]:
    """What a column of the first table shows, from the top."""
    found: list[str] = browser.value(
        "(i => " + SHOWN + ".map(r => r.cells[i].textContent))"
        "([...document.querySelectorAll('#run1 .sortable th')]"
        f".findIndex(h => h.textContent.trim().split(' ')[0] === {name!r}))"
    )
    return found


def click_heading(browser: Browser, name: str) -> None:
    browser.value(
        "[...document.querySelectorAll('#run1 .sortable th button')]"
        f".find(b => b.textContent.trim().split(' ')[0] === {name!r}).click()"
    )


def test_it_loads_without_a_complaint_and_without_the_network(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.value("document.documentElement.className") == "drawn ready"
    drawn = "path.line, path.area"
    assert browser.value(
        f"[...document.querySelectorAll('.plot')].every(p => p.querySelector({drawn!r}))"
    )
    assert browser.complaints() == []


def test_the_pointer_shows_median_interval_and_validity(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.mouse("mouseMoved", *centre(browser, "#run1 .plot svg"))
    told = browser.value(TIP)
    assert "connection" in told
    assert "median and" in told
    assert all(server in told for server in ("threaded", "eventloop", "seda"))
    assert " valid" in told
    assert browser.complaints() == []


def test_arrow_keys_read_the_levels_one_by_one(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.value("document.querySelector('#run1 .plot svg').focus()")
    told = []
    for _ in range(2):
        browser.press("ArrowRight")
        told.append(browser.value(TIP).split("\n")[0])
    assert told[0] == "1 connection"
    assert told[1].endswith(" connections")
    assert browser.value("document.querySelector('#run1 .said').textContent") != ""


def test_the_legend_hides_a_server_and_shows_it_again(browser: Browser, page: Path) -> None:
    browser.open(page)
    lines = (
        "document.querySelectorAll('#run1 .chart')[0].querySelectorAll('.plot path.line').length"
    )
    button = "document.querySelector('#run1 .legend button')"
    before = browser.value(lines)
    browser.value(f"{button}.click()")
    assert browser.value(lines) == before - 1
    assert browser.value(f"{button}.getAttribute('aria-pressed')") == "false"
    browser.value(f"{button}.click()")
    assert browser.value(lines) == before


def test_a_drag_zooms_and_escape_shows_all_again(browser: Browser, page: Path) -> None:
    browser.open(page)
    svg = "#run2 .plot svg"
    ticks = f"[...document.querySelectorAll({svg + ' .tick'!r})].map(t => t.textContent).join()"
    before = browser.value(ticks)
    x, y = centre(browser, svg)
    browser.mouse("mousePressed", x - 60, y, button="left", buttons=1, clickCount=1)
    browser.mouse("mouseMoved", x + 60, y, button="left", buttons=1)
    browser.mouse("mouseReleased", x + 60, y, button="left", clickCount=1)
    assert browser.value(ticks) != before
    browser.value(f"document.querySelector({svg!r}).focus()")
    browser.press("Escape")
    assert browser.value(ticks) == before


def test_a_heading_sorts_by_number_and_back(browser: Browser, page: Path) -> None:
    browser.open(page)
    click_heading(browser, "connections")
    up = [int(text) for text in column(browser, "connections")]
    assert up == sorted(up)
    assert len(set(up)) > 2
    click_heading(browser, "connections")
    assert [int(text) for text in column(browser, "connections")] == sorted(up, reverse=True)


def test_text_and_validity_filter_the_rows(browser: Browser, page: Path) -> None:
    browser.open(page)
    change = "document.querySelector('#run1 {}').value = {!r};document.querySelector('#run1 {}').dispatchEvent(new Event({!r}))"  # noqa: E501
    browser.value(change.format(".find", "SEDA", ".find", "input"))
    assert set(column(browser, "server")) == {"seda"}
    browser.value(change.format(".find", "", ".find", "input"))
    browser.value(change.format(".which", "invalid", ".which", "change"))
    assert column(browser, "trial") == ["3"]
    assert browser.value("document.querySelector('#run1 .count').textContent").startswith("1 of ")


@pytest.mark.parametrize("width", [375, 768])
def test_a_narrow_window_never_scrolls_sideways(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width, height=812, phone=True)
    browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.value("document.querySelectorAll('.all').forEach(c => c.click())")
    assert browser.value("document.documentElement.scrollWidth") == width


def test_text_of_a_folder_never_runs(browser: Browser, tmp_path: Path) -> None:
    reason = (
        "<img src=x onerror=\"document.title='run'\"></script><script>document.title='run'</script>"
    )
    run = write_run(tmp_path / "odd", invalid=[(3, reason)])
    browser.open(write([run], tmp_path / "odd.html"))
    assert browser.value("document.title") != "run"
    assert browser.value("document.querySelectorAll('img').length") == 0
    assert browser.complaints() == []
