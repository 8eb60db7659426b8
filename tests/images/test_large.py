"""Large images: shrunk while they are decoded, within a budget that all readers share."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddim_edit.images import Box, Fit, read
from ddim_edit.images.safeguards import MemoryBudget

from .. import tiny

KINDS = ["RGB.png", "RGBA.png", "P.png", "L.png", "RGB.jpg", "CMYK.jpg", "turned.jpg", "F.tif", "turned.tif"]


@pytest.mark.parametrize("crop", [None, Box(30, 50, 400), Fit()], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_shrunk_image_equals_whole_one_within_4(
    tmp_path: Path, kind: str, crop: Box | Fit | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode, _, suffix = kind.partition(".")
    image = Image.fromarray(tiny.pixels(0, 517, 701))
    exif = Image.Exif()
    if mode == "turned":
        exif[0x0112] = 6
    elif mode == "RGBA":
        image.putalpha(Image.fromarray(tiny.pixels(1, 517, 701)[:, :, 0]))
    elif mode == "F":
        image = Image.fromarray(tiny.pixels(0, 517, 701)[:, :, 0].astype(np.float32) * 3 - 20)
    else:
        image = image.convert(mode)
    path = tmp_path / f"a.{suffix}"
    image.save(path, exif=exif)
    whole = read(path, 24, crop)
    monkeypatch.setattr("ddim_edit.images.opening.LARGE", 1000)
    monkeypatch.setattr("ddim_edit.images.opening.STRIP", 4000)
    shrunk = read(path, 24, crop)
    assert (shrunk.notes, shrunk.preprocessing, shrunk.source) == (whole.notes, whole.preprocessing, whole.source)
    assert abs(shrunk.pixels.int() - whole.pixels.int()).max() <= 4


def test_readers_wait_for_memory() -> None:
    budget = MemoryBudget(10)
    inside = []
    most = []

    def work(wanted: int) -> None:
        with budget.reserve(wanted):
            inside.append(wanted)
            most.append(sum(inside))
            time.sleep(0.01)
            inside.remove(wanted)

    threads = [threading.Thread(target=work, args=(wanted,)) for wanted in [4, 4, 4, 25, 6, 1, 25, 9]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(most) == 8
    assert all(taken <= 10 or taken == 25 for taken in most)


@pytest.mark.slow
def test_two_large_images_at_once_take_memory_of_one(tmp_path: Path) -> None:
    Image.new("RGBA", (9_500, 9_500), (10, 200, 30, 128)).save(tmp_path / "a.png", compress_level=1)
    program = (
        "import resource, sys, torch\n"
        "from ddim_edit.images import read_all\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found = [image.pixels for _, image in read_all([sys.argv[1]] * 2, 64)]\n"
        "assert len(found) == 2\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.png"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 1_000_000, done.stdout  # kilobytes; 1.6 GB each before


def test_libtiff_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(tiny.pixels(0, 64, 64)).save(tmp_path / "a.tif", compression="tiff_lzw")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[8:60] = bytes(52)  # the beginning of the compressed strip
    (tmp_path / "a.tif").write_bytes(content)
    try:
        read(tmp_path / "a.tif", 16)
    except Exception as error:  # whether it can be read is not the question here
        print(error)
    assert not capfd.readouterr().err
