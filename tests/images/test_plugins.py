"""Formats of other packages: read where these are installed, and named with their extra where they are not."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddim_edit.errors import ImageError
from ddim_edit.images import find, read
from ddim_edit.images.plugins import PLUGINS, register_plugins

from .. import tiny

SUFFIXES = [".heic", ".jxl"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_formats_of_plugins_are_found_and_read(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip(PLUGINS[suffix].module)
    register_plugins()
    shown = tiny.pixels(0, 64, 64)
    Image.fromarray(shown).save(tmp_path / f"a{suffix}", quality=95)
    (file,) = find([tmp_path])
    assert abs(read(file, 64).pixels.permute(1, 2, 0).int().numpy() - shown.astype(int)).mean() < 6


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_its_package_a_file_names_the_extra(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {".heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), ".jxl": b"\xff\x0a" + bytes(64)}[suffix]
    (tmp_path / f"a{suffix}").write_bytes(content)
    monkeypatch.setattr("ddim_edit.images.plugins.is_installed", lambda name: False)
    monkeypatch.setattr("ddim_edit.images.opening.register_plugins", lambda: ())
    with pytest.raises(ImageError, match=rf"which needs pillow-\w+.*\. Run: pip install 'ddim-edit\[{suffix[1:]}\]'"):
        read(tmp_path / f"a{suffix}", 64)


def test_a_jpeg_xl_that_claims_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    register_plugins()
    file = BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file, "JXL")
    whole = file.getvalue()
    # 30 bits each of height and width: not small, (selector 3, side - 1), ratio 0, (3, side - 1).
    side = 3 | (99_999 << 2)
    header = (side << 1) | (0 << 33) | (side << 36)
    (tmp_path / "a.jxl").write_bytes(b"\xff\x0a" + header.to_bytes(12, "little") + whole[14:])
    with pytest.raises(ImageError, match="more than 178,000,000 pixels"):
        read(tmp_path / "a.jxl", 16)
