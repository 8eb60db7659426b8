"""Types of options whose values are small texts of their own: sizes, grids, levels, strengths, lists."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

DEFAULT_MODEL = "faces64"
NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
DIRECTION = ".direction.safetensors"


class Text(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """A text that a function reads; it raises ValueError, with a sentence, for one that it cannot read."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what the function makes of the text."""
        try:
            return self.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class FiniteRange(click.FloatRange):
    """A number in a range; click's own lets NaN pass, which is neither below nor above a bound."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class ModelName(click.types.StringParamType):
    """The name of a model; shells complete packaged models, or else files."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the packaged models that begin like this."""
        return _complete(list_assets("models"), incomplete)


class DirectionName(click.types.StringParamType):
    """The name of a direction; shells complete those that are packaged for the --model, or else files."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the packaged directions that begin like this."""
        return _complete(list_directions(ctx.params.get("model")), incomplete)


def list_assets(*folder: str) -> list[str]:
    """Return the names in a folder of the package's assets; none where there is no such folder."""
    from importlib import resources

    found = Path(str(resources.files("ddim_edit.assets"))).joinpath(*folder)
    return sorted(path.name for path in found.iterdir()) if found.is_dir() else []


def list_directions(model: str | None) -> list[str]:
    """Return the names of the directions that are packaged for a model, by default for faces64."""
    files = list_assets("directions", model or DEFAULT_MODEL)
    return [name.removesuffix(DIRECTION) for name in files if name.endswith(DIRECTION)]


def _complete(names: list[str], incomplete: str) -> list[CompletionItem]:
    # Shells take the first kind of item that they know; files count where no name fits.
    fitting = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return fitting or [CompletionItem(incomplete, type="file")]


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of "N" or "WIDTHxHEIGHT": people write the width first, tensors have it last.

    Raises:
        ValueError: another text.
    """
    found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if found is None:
        raise ValueError(f"{text!r} is not N or WIDTHxHEIGHT in pixels, as in 512 or 768x512.")
    width = int(found[1])
    return int(found[2] or width), width


def parse_columns_and_rows(text: str) -> tuple[int, int]:
    """Return the numbers of "COLUMNSxROWS".

    Raises:
        ValueError: another text.
    """
    found = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if found is None or min(int(found[1]), int(found[2])) < 2:
        raise ValueError(f"{text!r} is not COLUMNSxROWS of 2 or more each, as in 7x7.")
    return int(found[1]), int(found[2])


def parse_strength(text: str) -> tuple[str, float]:
    """Return name and strength of "NAME=STRENGTH"; the strength of a name alone is 1.

    Raises:
        ValueError: another text.
    """
    name, _, strength = text.rpartition("=") if "=" in text else (text, "=", "1")
    if not name or not re.fullmatch(NUMBER, strength):
        raise ValueError(f"{text!r} is not NAME=STRENGTH in standard deviations, as in old=+2.")
    return name, float(strength)


class Strip(NamedTuple):
    """Factors from `low` to `high` in so many even steps."""

    low: float
    high: float
    steps: int

    @property
    def factors(self) -> list[float]:
        """All of them."""
        last = self.steps - 1
        # Rounded, so that a strip meets 0 where it should.
        return [round((self.low * (last - i) + self.high * i) / last, 9) for i in range(self.steps)]


def parse_strip(text: str) -> Strip:
    """Return the strip of "LOW:HIGH:COUNT".

    Raises:
        ValueError: another text.
    """
    found = re.fullmatch(rf"({NUMBER}):({NUMBER}):(\d{{1,4}})", text)
    if found is None or int(found[3]) < 2:
        raise ValueError(f"{text!r} is not LOW:HIGH:COUNT with a count of 2 or more, as in -3:3:7.")
    return Strip(float(found[1]), float(found[2]), int(found[3]))


def parse_share(text: str) -> str:
    """Return "I/N" as it is.

    Raises:
        ValueError: another text, or an I that is not from 0 to N - 1.
    """
    found = re.fullmatch(r"(\d{1,9})/([1-9]\d{0,8})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError(f"{text!r} is not I/N with I from 0 to N - 1, as in 0/2 and 1/2.")
    return text


def list_of(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return a function that reads words with commas between them, each by `parse`, and drops repetitions."""

    def parse_list(text: str) -> list[Any]:
        words = dict.fromkeys(word.strip() for word in text.split(","))
        if not all(words):
            raise ValueError(f"{text!r} is not a list of words with commas between them.")
        return [parse(word) for word in words]

    return parse_list


def parse_weights(text: str) -> list[float]:
    """Return numbers with commas between them.

    Raises:
        ValueError: something else.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(NUMBER, word) for word in words):
        raise ValueError(f"{text!r} is not a list of numbers with commas between them, as in 0.5,0.3,0.2.")
    return [float(word) for word in words]


def parse_names(text: str) -> list[str]:
    """Return names of files with commas between them.

    Raises:
        ValueError: an empty name, one with a slash or a leading dot, or one that comes twice.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names) or any(re.search(r"[/\\\0]|^\.", name) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"{text!r} is not a list of different names of files with commas between them.")
    return names


def parse_steps(text: str) -> int:
    """Return a number of steps.

    Raises:
        ValueError: not a number from 1 to 10,000.
    """
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 10_000):
        raise ValueError(f"{text!r} is not a number of steps from 1 to 10000.")
    return int(text)


def parse_label_count(text: str) -> int | None:
    """Return a number of labels, or None for "all".

    Raises:
        ValueError: not a number above 1, nor "all".
    """
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 2:
        raise ValueError(f"{text!r} is not a number above 1 or 'all', as in 10,100,all.")
    return int(text)
