"""Measure how well the health of latents tells photographs of faces from flat graphics and screenshots.

    python benchmarks/health.py --data FOLDER --count 128

Inverts the first photographs of a folder and twenty graphics, which are drawn here, with faces64, the default settings
and float32, and prints the figures of `metrics.health`. "plain" is the standard deviation of x_T over all cells of a
graphic that have no edge within two pixels, where there are 90 or more.
"""

import argparse
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from ddim_edit import Editor, InputWarning, InversionConfig, hardware, images, load_model
from ddim_edit.metrics import health

SIDE = 512
FEWEST_PLAIN_CELLS = 90
"""Chance alone moves the standard deviation of fewer cells, of three values each, by more than 0.04."""
TEXT = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. " * 40
Colour = str | tuple[int, int, int]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of photographs of faces, 64x64 pixels")
    parser.add_argument("--count", type=int, default=128, help="how many of them")
    parser.add_argument("--grid", default="karras:14", help="graphics are healthier from grids that start higher")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore", InputWarning)  # graphics are not typical, which is known here
    editor = Editor(load_model("faces64"), batch_size=16)
    files = sorted(arguments.data.iterdir())[: arguments.count]
    graphics = {name: draw() for name, draw in GRAPHICS.items()}
    small = [graphic.resize((64, 64), Image.Resampling.LANCZOS) for graphic in graphics.values()]
    config = InversionConfig(grid=arguments.grid, steps=arguments.steps)
    print(hardware(editor.model.device))
    columns = ("std", "kurtosis", "patch_low", "patch_high", "low", "middle", "high", "deviation")
    print(f"{'':<28}" + "".join(f"{name:>11}" for name in (*columns, "plain")))
    faces = asdict(health(editor.invert(files, config).x))
    for name, quantile in (("least", 0.0), ("median", 0.5), ("greatest", 1.0)):
        label = f"{len(files)} photographs, {name}"
        print(f"{label:<28}" + "".join(f"{faces[each].quantile(quantile):>11.3f}" for each in columns))
    latents = editor.invert(small, config)
    found = asdict(health(latents.x))
    for index, name in enumerate(graphics):
        noise = latents.x[index][:, _plain_cells(images.read(small[index], 64).tensor)]
        plain = f"{noise.std():.3f}" if noise.shape[1] >= FEWEST_PLAIN_CELLS else "-"
        print(f"{name:<28}" + "".join(f"{found[each][index]:>11.3f}" for each in columns) + f"{plain:>11}")


def _plain_cells(picture: Tensor) -> Tensor:
    """Return which cells [H, W] of a picture [3, H, W] have one colour around them, within two levels of 255."""
    greatest = F.max_pool2d(picture, 5, stride=1, padding=2)
    least = -F.max_pool2d(-picture, 5, stride=1, padding=2)
    return (greatest - least).amax(0) < 2.5 / 127.5


def _canvas(colour: Colour = "white") -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIDE, SIDE), colour)
    return image, ImageDraw.Draw(image)


def _page(background: Colour, ink: Colour, size: int) -> Image.Image:
    """Return a page of text."""
    image, draw = _canvas(background)
    font = ImageFont.load_default(size=size)
    x, y = 16.0, 16.0
    for word in TEXT.split():
        length = draw.textlength(f"{word} ", font)
        if x + length > SIDE - 16:
            x, y = 16.0, y + 1.4 * size
        if y > SIDE:
            break
        draw.text((x, y), word, ink, font)
        x += length
    return image


def _window() -> Image.Image:
    image, draw = _canvas((236, 236, 240))
    draw.rectangle((0, 0, SIDE, 44), (50, 90, 160))
    draw.rectangle((0, 44, 140, SIDE), (220, 222, 228))
    font = ImageFont.load_default(size=18)
    for row in range(6):
        draw.text((14, 64 + 40 * row), f"Page {row}", (40, 40, 40), font)
        draw.rounded_rectangle((170, 70 + 64 * row, 490, 114 + 64 * row), 8, (255, 255, 255), (190, 190, 200))
        draw.text((182, 80 + 64 * row), f"Option {row}", (60, 60, 60), font)
    return image


def _bars() -> Image.Image:
    image, draw = _canvas()
    draw.line((50, 20, 50, 470, 490, 470), "black", 3)
    for index, height in enumerate((120, 390, 90, 210, 140, 360, 350)):
        draw.rectangle((75 + 58 * index, 470 - height, 115 + 58 * index, 469), (31, 119, 180))
    return image


def _lines() -> Image.Image:
    image, draw = _canvas()
    chance = random.Random(2)
    for colour in ("red", "green", "blue"):
        points = [(20.0, 256.0)]
        while points[-1][0] < 490:
            points.append((points[-1][0] + 12, points[-1][1] + chance.randint(-25, 25)))
        draw.line(points, colour, 4)
    draw.rectangle((20, 20, 492, 492), None, "black", 2)
    return image


def _logo() -> Image.Image:
    image, draw = _canvas()
    draw.ellipse((96, 96, 416, 416), (220, 40, 50))
    draw.polygon([(256, 140), (370, 350), (142, 350)], "white")
    return image


def _stripes() -> Image.Image:
    image, draw = _canvas("black")
    draw.rectangle((0, 171, SIDE, 341), (221, 0, 0))
    draw.rectangle((0, 341, SIDE, SIDE), (255, 206, 0))
    return image


def _cross() -> Image.Image:
    image, draw = _canvas((0, 82, 147))
    draw.rectangle((140, 0, 220, SIDE), (254, 203, 0))
    draw.rectangle((0, 216, SIDE, 296), (254, 203, 0))
    return image


def _squares(side: int, is_black: Callable[[int, int], bool]) -> Image.Image:
    image, draw = _canvas()
    for column in range(SIDE // side):
        for row in range(SIDE // side):
            if is_black(column, row):
                left, top = column * side, row * side
                draw.rectangle((left, top, left + side - 1, top + side - 1), "black")
    return image


def _code() -> Image.Image:
    chance = random.Random(3)
    return _squares(16, lambda column, row: chance.random() < 0.5)


def _gradient() -> Image.Image:
    across = torch.linspace(0, 255, SIDE).to(torch.uint8).repeat(SIDE, 1)
    bands = [across, torch.full_like(across, 128), 255 - across.T // 2]
    return Image.merge("RGB", [Image.fromarray(band.contiguous().numpy()) for band in bands])


def _smiley() -> Image.Image:
    image, draw = _canvas((135, 206, 235))
    draw.ellipse((80, 80, 432, 432), (255, 220, 0), "black", 6)
    draw.ellipse((170, 180, 210, 240), "black")
    draw.ellipse((302, 180, 342, 240), "black")
    draw.arc((160, 200, 352, 370), 20, 160, "black", 10)
    return image


def _slide() -> Image.Image:
    image, draw = _canvas()
    draw.text((40, 60), "Quarterly results", (20, 40, 90), ImageFont.load_default(size=48))
    for row in range(4):
        draw.ellipse((50, 176 + 70 * row, 64, 190 + 70 * row), (20, 40, 90))
        draw.text((84, 165 + 70 * row), "A point of some length", (50, 50, 50), ImageFont.load_default(size=30))
    return image


def _chat() -> Image.Image:
    image, draw = _canvas((229, 221, 213))
    for row in range(6):
        left, colour = (20, (255, 255, 255)) if row % 2 else (190, (220, 248, 198))
        draw.rounded_rectangle((left, 20 + 80 * row, left + 300, 82 + 80 * row), 14, colour)
        draw.text((left + 14, 34 + 80 * row), "See you tomorrow!", (30, 30, 30), ImageFont.load_default(size=22))
    return image


def _map() -> Image.Image:
    image, draw = _canvas((242, 239, 233))
    chance = random.Random(4)
    draw.polygon([(0, 300), (200, 260), (330, 400), (512, 380), (512, 512), (0, 512)], (170, 211, 223))
    for _ in range(12):
        draw.line([(chance.randint(0, SIDE), 0), (chance.randint(0, SIDE), 300)], "white", 8)
    draw.rectangle((300, 60, 420, 160), (200, 230, 180))
    return image


def _pie() -> Image.Image:
    image, draw = _canvas()
    parts = ((0, 120, "#1f77b4"), (120, 200, "#ff7f0e"), (200, 300, "#2ca02c"), (300, 360, "#d62728"))
    for start, end, colour in parts:
        draw.pieslice((80, 80, 432, 432), start, end, colour)
    return image


def _house() -> Image.Image:
    image, draw = _canvas((200, 230, 255))
    draw.rectangle((0, 360, SIDE, SIDE), (100, 180, 80))
    draw.rectangle((140, 220, 372, 400), (230, 180, 120))
    draw.polygon([(110, 220), (256, 100), (402, 220)], (170, 50, 40))
    draw.rectangle((220, 300, 290, 400), (100, 60, 30))
    draw.ellipse((400, 30, 480, 110), (255, 230, 60))
    return image


GRAPHICS: Mapping[str, Callable[[], Image.Image]] = {
    "text": lambda: _page("white", "black", 28),
    "small text": lambda: _page("white", "black", 16),
    "headline": lambda: _page("white", "black", 72),
    "terminal": lambda: _page((20, 20, 20), (80, 255, 80), 22),
    "editor": lambda: _page((30, 30, 46), (205, 214, 244), 20),
    "window": _window,
    "bar chart": _bars,
    "line chart": _lines,
    "pie chart": _pie,
    "logo": _logo,
    "flag with stripes": _stripes,
    "flag with a cross": _cross,
    "chequerboard": lambda: _squares(64, lambda column, row: (column + row) % 2 == 1),
    "two-dimensional code": _code,
    "gradient": _gradient,
    "smiley": _smiley,
    "slide": _slide,
    "chat": _chat,
    "map": _map,
    "drawing of a house": _house,
}

if __name__ == "__main__":
    main()
