"""The page in a real browser, on the packaged model."""

import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image, ImageOps
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


def asked_nobody_and_complained_of_nothing(guest: Visit) -> None:
    assert guest.hosts == {"127.0.0.1"}
    assert guest.complaints == []


@pytest.fixture
def guest(visit: Callable[[], Visit]) -> Iterator[Visit]:
    """A visit of its own."""
    guest = visit()
    yield guest
    asked_nobody_and_complained_of_nothing(guest)
    guest.page.close()


@pytest.fixture(scope="module")
def shared(visit: Callable[[], Visit]) -> Visit:
    """A visit for several tests, which leave the page as they found it; to open a photo takes 40 evaluations."""
    return visit()


@pytest.fixture
def portrait(shared: Visit) -> Iterator[Visit]:
    """The shared visit, with the astronaut opened and no slider moved."""
    if not shared.page.locator("#compare img").count():
        shared.open(IMAGES / "astronaut.png")
    yield shared
    asked_nobody_and_complained_of_nothing(shared)
    if shared.line.input_value():
        shared.page.locator("#reset").click()
        expect(shared.line).to_have_value("", timeout=PATIENCE)


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of two persons, the larger one on the left."""
    path = tmp_path_factory.mktemp("group") / "group.jpg"
    with Image.open(IMAGES / "astronaut.png") as portrait:
        person = portrait.convert("RGB").crop((60, 0, 390, 420))
    both = Image.new("RGB", (900, 420), (120, 130, 140))
    both.paste(person, (30, 0))
    both.paste(ImageOps.mirror(person).resize((264, 336)), (500, 80))
    both.save(path, quality=95)
    return path


def test_bad_file_shows_one_sentence_and_next_file_works(shared: Visit, tmp_path: Path) -> None:
    bad = tmp_path / "letter.png"
    bad.write_text("dear model")
    shared.upload("photo", bad)
    toast = shared.page.get_by_test_id("toast-body")
    expect(toast).to_contain_text("this is not a PNG, JPEG, WebP, GIF, BMP or TIFF image", timeout=PATIENCE)
    said = toast.inner_text()
    assert "letter.png: this is not a PNG" in said
    assert "Traceback" not in said
    assert str(Path(bad.anchor) / "tmp") not in said
    shared.complaints.clear()  # of the browser's own, which cannot show that file either
    shared.page.get_by_test_id("toast-close").click()
    expect(shared.page.locator("#photo img")).to_have_count(0, timeout=PATIENCE)
    shared.open(IMAGES / "astronaut.png")


def test_results_come_in_one_stream_that_stays_open(portrait: Visit) -> None:
    """What the browser sends while gradio closes a stream is lost, and the page stands still."""
    expect(portrait.page.locator("#image")).to_be_enabled(timeout=PATIENCE)
    assert len([url for url in portrait.asked if "/queue/data" in url]) == 1


def test_photograph_is_edited_reset_and_saved(portrait: Visit, tmp_path: Path) -> None:
    guest = portrait
    before, after = guest.seen()
    assert before == after
    assert guest.line.input_value() == ""
    # Nothing is moved: the very file comes back.
    assert guest.saved("image")[1] == (IMAGES / "astronaut.png").read_bytes()
    slider = guest.page.locator("#slide-old input[type=range]")
    slider.focus()
    slider.press("End")
    expect(guest.line).to_have_value("ddim-edit edit astronaut.png --set old=+3 -o edited", timeout=PATIENCE)
    older = guest.seen()
    assert older[0] == before
    assert older[1] != before
    guest.page.locator("#keep").get_by_label("female").check()
    guest.watch_busy()
    guest.type_in("slide-old", "-7.5")  # beyond the reach of the slider, which widens
    kept = "ddim-edit edit astronaut.png --set old=-7.5 --keep female -o edited"
    expect(guest.line).to_have_value(kept, timeout=PATIENCE)
    assert slider.evaluate("slider => [slider.min, slider.max, slider.value]") == ["-9", "9", "-7.5"]
    # While that was computed, the old result was grey and could not be saved.
    assert [True, True] in guest.page.evaluate("window.seenBusy")
    assert guest.seen()[1] not in (older[1], before)
    _is_what_the_line_makes(guest, kept, tmp_path)
    whole, shown = guest.seen(), guest.shown
    guest.page.locator("#close-up input").check()
    expect(guest.page.locator("#compare img").first).not_to_have_attribute("src", shown[0], timeout=PATIENCE)
    assert guest.seen() != whole
    guest.page.locator("#reset").click()
    expect(guest.line).to_have_value("", timeout=PATIENCE)
    assert len(set(guest.seen())) == 1
    guest.page.locator("#close-up input").uncheck()


def _is_what_the_line_makes(guest: Visit, line: str, folder: Path) -> None:
    """What the page saves is what its command line makes of the same file, and holds its recipe."""
    name, picture = guest.saved("image")
    assert name == "astronaut-edited.png"
    (folder / "astronaut.png").write_bytes((IMAGES / "astronaut.png").read_bytes())
    command = [sys.executable, "-m", "ddim_edit", *shlex.split(line)[1:]]
    subprocess.run(command, cwd=folder, check=True)
    made, saved = folder / "edited" / name, folder / "saved.png"
    saved.write_bytes(picture)
    assert_shown_alike(read(saved, 512).pixels, read(made, 512).pixels)
    recipe = read_recipe(made)
    assert recipe is not None
    assert read_recipe(saved) == recipe
    assert json.loads(guest.saved("recipe")[1]) == recipe
    assert (recipe["set"], recipe["keep"]) == ({"old": -7.5}, ["female"])
    name, content = guest.saved("latent")
    (folder / name).write_bytes(content)
    assert abs(float(Latent.load(folder / name).x.std()) - 1) < 0.05


def test_another_face_or_a_box_is_chosen_and_kept_over_a_reload(guest: Visit, group: Path) -> None:
    guest.upload("photo", group)
    expect(guest.page.locator("#crop-photo input")).to_have_value(re.compile("Face 1"), timeout=PATIENCE)
    guest.type_in("slide-light", "2")
    guest.click_at("photo", 0.7, 0.45)  # while the first face is opened, which is no longer waited for
    second = "ddim-edit edit group.jpg --set light=+2 --crop face --face 2 -o edited"
    expect(guest.line).to_have_value(second, timeout=PATIENCE)
    expect(guest.page.locator("#verdict")).to_contain_text("Face 2 of 2 aligned")
    with Image.open(io.BytesIO(guest.saved("image")[1])) as saved:
        assert (saved.format, saved.size) == ("JPEG", (900, 420))
    guest.reload()
    expect(guest.line).to_have_value(second, timeout=PATIENCE)
    assert guest.page.locator("#slide-light input[type=number]").input_value() == "2"
    guest.choose("photo", "Own box")
    expect(guest.line).to_have_value(re.compile(r"--crop \d+,\d+,8\d"), timeout=PATIENCE)
    guest.type_in("size-photo", "140")  # more than all of it
    expect(guest.line).to_have_value(re.compile(r"--crop \d+,0,420"), timeout=PATIENCE)


def test_edits_pass_long_jobs_of_other_tabs_which_can_be_stopped(guest: Visit, portrait: Visit) -> None:
    guest.go("New faces")
    guest.type_in("count", "60")
    guest.page.locator("#draw").click()
    expect(guest.page.locator("#stop-draw")).to_be_visible(timeout=PATIENCE)
    portrait.type_in("slide-old", "2")
    expect(portrait.line).to_have_value(re.compile("old="), timeout=PATIENCE)
    expect(guest.page.locator("#stop-draw")).to_be_visible()
    guest.page.locator("#stop-draw").click()
    expect(guest.page.locator("#stop-draw")).to_be_hidden(timeout=PATIENCE)
    assert guest.page.locator("#faces button.thumbnail-item").count() == 0


def test_interpolation_saves_strip_and_animation(guest: Visit, group: Path) -> None:
    guest.go("Between")
    guest.upload("place-0", group)
    guest.upload("place-1", IMAGES / "seed-0014.png")
    expect(guest.page.locator("#place-1 img")).to_be_visible(timeout=PATIENCE)
    expect(guest.page.locator("#crop-place-0")).to_be_visible(timeout=PATIENCE)
    guest.choose("place-0", "Face 2")
    expect(guest.page.locator("#crop-place-0 input")).to_have_value("Face 2", timeout=PATIENCE)
    guest.type_in("frames", "3")
    guest.page.locator("#interpolate").click()
    expect(guest.line).to_have_value(re.compile("group.jpg@face:2 seed-0014.png .*--loop"), timeout=PATIENCE)
    name, content = guest.saved("animation-file")
    with Image.open(io.BytesIO(content)) as animation:
        assert (name, animation.format, animation.n_frames, animation.size) == ("between.webp", "WEBP", 4, (256, 256))
    name, content = guest.saved("strip-file")
    with Image.open(io.BytesIO(content)) as strip:
        assert (name, strip.format, strip.size) == ("between.png", "PNG", (3 * 256 + 2 * 8, 36 + 256))
    guest.type_in("weight-1", "-0.25")
    guest.page.locator("#combine").click()
    expect(guest.line).to_have_value(re.compile("combine .*seed-0014.png --weights 1,-0.25"), timeout=PATIENCE)
    name, content = guest.saved("combined-file")
    with Image.open(io.BytesIO(content)) as combined:
        assert (name, combined.format, combined.size) == ("combined.png", "PNG", (256, 256))
    if find_spec("av") is not None:
        guest.type_in("frames", "2")
        guest.page.get_by_label("MP4").check()
        guest.page.locator("#interpolate").click()
        expect(guest.page.locator("#video video")).to_be_visible(timeout=PATIENCE)
        assert guest.saved("animation-file")[1][4:8] == b"ftyp"


def test_sampled_face_can_be_edited(guest: Visit) -> None:
    guest.go("New faces")
    guest.type_in("count", "2")
    guest.type_in("seed", "3")
    guest.page.locator("#draw").click()
    faces = guest.page.locator("#faces button.thumbnail-item")
    expect(faces).to_have_count(2, timeout=PATIENCE)
    faces.nth(1).click()
    guest.wait_for_result()
    assert guest.line.input_value() == "ddim-edit sample -n 2 --seed 3 -o faces"
    guest.type_in("slide-old", "1")
    lines = "ddim-edit sample -n 2 --seed 3 -o faces\nddim-edit edit faces/seed-0004.png --set old=+1 -o edited"
    expect(guest.line).to_have_value(lines, timeout=PATIENCE)
    guest.go("New faces")
    guest.page.locator("#shuffle").click()
    expect(guest.line).not_to_have_value(re.compile("--seed 3 "), timeout=PATIENCE)
    assert guest.page.locator("#seed input").input_value() != "3"


def test_on_a_phone_the_picture_stays_in_sight_of_the_sliders(portrait: Visit) -> None:
    page = portrait.page
    usual = page.viewport_size
    assert usual is not None
    page.set_viewport_size({"width": 390, "height": 844})
    # Once the picture has found its new size.
    page.wait_for_function(
        """() => {
            const slider = document.querySelector("#slide-warm");
            slider.scrollIntoView({ block: "end" });
            const box = document.querySelector("#compare").getBoundingClientRect();
            const { top } = slider.getBoundingClientRect();
            return box.height > 100 && box.top >= 0 && box.bottom <= top && top < 844;
        }""",
        timeout=PATIENCE,
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size(usual)


def test_controls_and_pictures_have_names(portrait: Visit) -> None:
    unnamed = """() => [...document.querySelectorAll("button, input, textarea, select, img")].filter((each) =>
        each.checkVisibility() && !each.closest("footer") && each.type !== "file"
        && !(each.alt || each.ariaLabel || each.title || each.innerText?.trim() || each.labels?.length))
        .map((each) => each.outerHTML.slice(0, 200))"""
    assert portrait.page.evaluate(unnamed) == []
    line = portrait.page.locator("#compare [data-testid=slider]")
    before = line.bounding_box()
    line.press("ArrowLeft")
    after = line.bounding_box()
    assert before is not None
    assert after is not None
    assert after["x"] < before["x"] - 5
