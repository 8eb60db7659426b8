"""The page in a real browser, on the packaged model."""

import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from ddim_edit import Latent
from ddim_edit.images import read, read_recipe

from ..rounding import assert_shown_alike
from .browsing import IMAGES, PATIENCE, Visit, find_chromium, serving, visiting

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Visit]]:
    find_chromium()
    folder = tmp_path_factory.mktemp("served")
    with serving(folder) as address, visiting(address) as visit:
        yield visit


@pytest.fixture
def guest(visit: Callable[[], Visit]) -> Iterator[Visit]:
    """A visit that must ask nobody but this machine, and complain of nothing."""
    guest = visit()
    yield guest
    assert guest.hosts == {"127.0.0.1"}
    assert guest.complaints == []
    guest.page.close()


def test_photo_is_edited_reset_and_saved(guest: Visit, tmp_path: Path) -> None:
    guest.open(IMAGES / "astronaut_face.png")
    before, after = guest.seen()
    assert before == after
    slider = guest.page.locator("#slide-old input[type=range]")
    slider.focus()
    slider.press("End")
    expect(guest.line).to_have_value(
        "ddim-edit edit astronaut_face.png --set old=+3 --crop centre --output-size model -o edited", timeout=PATIENCE
    )
    older = guest.seen()
    assert older[0] == before
    assert older[1] != before
    guest.page.locator("#keep").get_by_label("female").check()
    guest.type_in("slide-old", "-2")
    kept = "ddim-edit edit astronaut_face.png --set old=-2 --keep female --crop centre --output-size model -o edited"
    expect(guest.line).to_have_value(kept, timeout=PATIENCE)
    assert guest.seen()[1] not in (older[1], before)
    _is_what_the_line_makes(guest, kept, tmp_path)
    guest.page.locator("#reset").click()
    expect(guest.line).to_have_value(
        "ddim-edit edit astronaut_face.png --set age=0 --crop centre --output-size model -o edited", timeout=PATIENCE
    )
    assert guest.seen() == (before, before)


def _is_what_the_line_makes(guest: Visit, line: str, folder: Path) -> None:
    """What the page saves is what its command line makes of the same file, and holds its recipe."""
    name, picture = guest.saved("image")
    assert name == "astronaut_face-edited.png"
    (folder / "astronaut_face.png").write_bytes((IMAGES / "astronaut_face.png").read_bytes())
    command = [sys.executable, "-m", "ddim_edit", *shlex.split(line)[1:]]
    subprocess.run(command, cwd=folder, check=True)
    made, saved = folder / "edited" / "astronaut_face-edited.png", folder / "saved.png"
    saved.write_bytes(picture)
    assert_shown_alike(read(saved, 64).pixels, read(made, 64).pixels)
    recipe = read_recipe(made)
    assert recipe is not None
    assert read_recipe(saved) == recipe
    assert json.loads(guest.saved("recipe")[1]) == recipe
    assert (recipe["set"], recipe["keep"]) == ({"old": -2.0}, ["female"])
    name, content = guest.saved("latent")
    (folder / name).write_bytes(content)
    assert abs(float(Latent.load(folder / name).x.std()) - 1) < 0.05


def test_crop_by_click_and_slider(guest: Visit) -> None:
    guest.upload("photo", IMAGES / "astronaut.png")
    expect(guest.page.locator("#verdict")).to_contain_text("512x512 to 64x64", timeout=PATIENCE)
    guest.frame("21.1", 225 / 512, 126 / 512)
    guest.page.locator("#use").click()
    expect(guest.page.locator("#verdict")).to_contain_text("108x108 of 512x512", timeout=PATIENCE)
    expect(guest.line).to_have_value(re.compile("--crop"), timeout=PATIENCE)
    words = shlex.split(guest.line.input_value())
    x, y, side = map(int, words[words.index("--crop") + 1].split(","))
    assert (abs(x - 171) <= 4, abs(y - 72) <= 4, side) == (True, True, 108)


def test_bad_file_shows_one_sentence_and_next_file_works(guest: Visit, tmp_path: Path) -> None:
    bad = tmp_path / "letter.png"
    bad.write_text("dear model")
    guest.upload("photo", bad)
    toast = guest.page.get_by_test_id("toast-body")
    expect(toast).to_contain_text("this is not a PNG, JPEG, WebP, GIF, BMP or TIFF image", timeout=PATIENCE)
    said = toast.inner_text()
    assert "letter.png: this is not a PNG" in said
    assert "Traceback" not in said
    assert str(Path(bad.anchor) / "tmp") not in said
    guest.complaints.clear()  # of the browser's own, which cannot show that file either
    guest.page.get_by_test_id("toast-close").click()
    guest.page.locator("#photo").get_by_label("Remove Image").click()
    guest.page.wait_for_timeout(1500)  # nobody finds the next file sooner
    guest.open(IMAGES / "astronaut_face.png")


def test_interpolation_saves_strip_and_animation(guest: Visit) -> None:
    guest.go("Between")
    guest.upload("place-0", IMAGES / "astronaut_face.png")
    guest.upload("place-1", IMAGES / "seed-0014.png")
    expect(guest.page.locator("#place-1 img")).to_be_visible(timeout=PATIENCE)
    guest.type_in("frames", "3")
    guest.page.locator("#interpolate").click()
    expect(guest.line).to_have_value(re.compile("--loop"), timeout=PATIENCE)
    name, content = guest.saved("animation-file")
    with Image.open(io.BytesIO(content)) as animation:
        assert (name, animation.format, animation.n_frames, animation.size) == ("between.webp", "WEBP", 4, (256, 256))
    name, content = guest.saved("strip-file")
    with Image.open(io.BytesIO(content)) as strip:
        assert (name, strip.format, strip.size) == ("between.png", "PNG", (3 * 256 + 2 * 8, 256))


def test_sampled_face_can_be_edited(guest: Visit) -> None:
    guest.go("New faces")
    guest.type_in("count", "3")
    guest.page.locator("#draw").click()
    faces = guest.page.locator("#faces button.thumbnail-item")
    expect(faces).to_have_count(3, timeout=PATIENCE)
    faces.nth(1).click()
    expect(guest.page.locator("#verdict")).to_contain_text("There and back", timeout=PATIENCE)
    lines = "ddim-edit sample -n 3 --seed 0 -o faces\nddim-edit edit faces/seed-0001.png --set age=0 -o edited"
    expect(guest.line).to_have_value(lines, timeout=PATIENCE)
    before, after = guest.seen()
    assert before == after
