"""The page as it is served, in Debian's Chromium, with an eye on what the browser asks for and complains of."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from ddim_edit.ui.workspace import PREFIX

from ..waiting import HANG

IMAGES = Path(__file__).parents[2] / "assets" / "images"
PATIENCE = 1000 * HANG
"""Milliseconds after which a page that hangs is given up."""


def find_chromium() -> str:
    """Where Chromium is. Without it a test is skipped, but fails in CI, where it must be."""
    found = shutil.which("chromium")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium here: apt-get install chromium")
    return str(found)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a page on faces64, served by the command line from an empty folder."""
    with subprocess.Popen(
        [sys.executable, "-m", "ddim_edit", "ui", "--port", "0", "--no-browser"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.terminate()
        _, said = server.communicate(timeout=HANG)
    assert "Traceback" not in said, said
    assert not list(folder.glob(f"{PREFIX}*"))


@dataclass
class Visit:
    """One visit of the page."""

    page: Page
    address: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def arrive(self) -> None:
        """Open the page, and listen from the first request on."""
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda told: self.complaints.append(told.text) if told.type == "error" else None)
        self.page.goto(self.address)
        expect(self.page.locator("#photo")).to_be_visible(timeout=PATIENCE)

    def reload(self) -> None:
        """Load the page anew; what it complains of while it is left, such as a closed connection, nobody sees."""
        assert self.complaints == []
        self.page.reload()
        self.complaints.clear()

    @property
    def hosts(self) -> set[str | None]:
        """Every host that was asked for anything; blob: and data: are none."""
        parts = [urlsplit(url.removeprefix("blob:")) for url in self.asked if not url.startswith("data:")]
        return {part.hostname for part in parts}

    def go(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab).click()

    def upload(self, place: str, path: Path) -> None:
        self.page.set_input_files(f"#{place} input[type=file]", path)

    def open(self, path: Path) -> None:
        """Upload a photo, and wait until it can be edited."""
        self.upload("photo", path)
        self.wait_for_result()

    def wait_for_result(self) -> None:
        """Wait until a photo is opened and nothing is computed."""
        expect(self.page.locator("#verdict")).to_contain_text("There and back", timeout=PATIENCE)
        expect(self.page.locator("#compare img")).to_have_count(2, timeout=PATIENCE)
        expect(self.page.locator("#image")).to_be_enabled(timeout=PATIENCE)

    def click_at(self, place: str, across: float, down: float) -> None:
        """Click a photo at shares of its width and height."""
        photo = self.page.locator(f"#{place} img")
        box = photo.bounding_box()
        assert box is not None
        photo.click(position={"x": box["width"] * across, "y": box["height"] * down})

    def choose(self, place: str, part: str) -> None:
        """Choose a part of a photo by name."""
        self.page.locator(f"#crop-{place} input").click()
        self.page.get_by_role("option", name=part).click()

    def type_in(self, name: str, value: str) -> None:
        """Type a number beside a slider and leave it."""
        number = self.page.locator(f"#{name} input[type=number]")
        number.fill(value)
        number.blur()

    @property
    def line(self):  # type: ignore[no-untyped-def]  # a Locator
        return self.page.locator(".line textarea:visible")

    def watch_busy(self) -> None:
        """Keep in `window.seenBusy` whether a result is busy, and whether its files are disabled, at every change."""
        self.page.evaluate("""() => {
            window.seenBusy = [];
            const result = document.querySelector(".result");
            const note = () => window.seenBusy.push([result.classList.contains("busy"),
                                                     result.querySelector(".files").inert]);
            new MutationObserver(note).observe(result, { attributes: true, subtree: true });
        }""")

    @property
    def shown(self) -> list[str]:
        """The addresses of the pictures before and after."""
        return [str(each.get_attribute("src")) for each in self.page.locator("#compare img").all()]

    def seen(self) -> tuple[bytes, bytes]:
        """The pictures before and after, as files."""
        before, after = self.shown
        return self.bytes_of(before), self.bytes_of(after)

    def bytes_of(self, url: str) -> bytes:
        return self.page.request.get(url, timeout=PATIENCE).body()

    def saved(self, button: str) -> tuple[str, bytes]:
        """Name and content of what a button downloads."""
        expect(self.page.locator(f"#{button}")).to_be_enabled(timeout=PATIENCE)
        with self.page.expect_download(timeout=PATIENCE) as download:
            self.page.locator(f"#{button}").click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()


@contextmanager
def visiting(address: str) -> Iterator[Callable[[], Visit]]:
    """Opens visits of the page in a headless browser."""
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=options, timeout=PATIENCE)

        def visit() -> Visit:
            made = Visit(browser.new_page(viewport={"width": 1440, "height": 1000}), address)
            made.page.set_default_timeout(PATIENCE)  # of clicks and the like, which is half a minute otherwise
            made.arrive()
            return made

        yield visit
        browser.close()
