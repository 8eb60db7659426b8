"""Makes the picture of the page in the docs: `python -m tests.ui.screenshot docs/images/ui.png`."""

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import expect

from .browsing import IMAGES, PATIENCE, Visit, serving, visiting


def take(visit: Visit, target: Path) -> None:
    """An edited photograph: moved along one direction with another one kept."""
    visit.open(IMAGES / "astronaut.png")
    visit.page.get_by_label("±9").check()
    visit.page.locator("#keep").get_by_label("female").check()
    visit.type_in("slide-old", "6")
    expect(visit.line).to_have_value(re.compile(r"old=\+6 --keep"), timeout=PATIENCE)
    visit.page.locator("#close-up input").check()
    visit.page.mouse.move(0, 0)
    visit.page.evaluate("window.scrollTo(0, 0)")
    visit.page.wait_for_timeout(1500)
    visit.page.screenshot(path=target, full_page=True)


if __name__ == "__main__":
    with TemporaryDirectory() as folder, serving(Path(folder)) as address, visiting(address) as visit:
        take(visit(), Path(sys.argv[1]))
