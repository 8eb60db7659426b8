"""What a running command has: its editor, its voice on standard error, and the count of what failed."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ddim_edit import DDIMEditError

if TYPE_CHECKING:
    from tqdm import tqdm

    from ddim_edit import Editor, Model, Recipe
    from ddim_edit.latents.image_recipes import ImageRecipe

Item = TypeVar("Item")
PAYS_TO_COMPILE = 1_500_000
"""Evaluations from which compiling pays on a GPU: at 0.2 ms each, a minute is won back if it makes a fifth of it."""


def plainly(error: DDIMEditError | OSError) -> str:
    """What an error says, without the system's numbers."""
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    return str(error)


@dataclass
class Session:
    """One run of a command; nothing heavy is loaded before `editor` is asked for."""

    model: str | None
    device: str
    dtype: str
    batch_size: int | None
    as_json: bool
    quiet: bool
    size: tuple[int, int] | None = None
    offline: bool = False
    compile: str = "auto"
    metadata: bool = True
    expected: int = 0
    failures: int = 0
    evaluations: int = 0
    _bar: "tqdm[Any] | None" = field(default=None, repr=False)

    @cached_property
    def editor(self) -> "Editor":
        """The editor that the options describe."""
        editor = self.load(self.model, on_evaluation=self._evaluated, compiled=self.compiled)
        self.describe(editor.model)
        return editor

    @property
    def compiled(self) -> bool:
        """Whether the network is to be compiled: where that was asked for, or pays for the job ahead."""
        return self.compile == "on" or (self.compile == "auto" and self._long_on_cuda())

    def describe(self, model: "Model") -> None:
        """Say what runs where, and what about that may surprise."""
        chosen = ", chosen by --device auto" if self.device == "auto" else ""
        self.note(f"{model.name} in {model.dtype} on {model.device}{chosen}")
        if self.compiled:
            self.note("compiling the network first, about a minute for each batch size; --compile off does without")
        if not model.native:
            self.warn(f"{model.dtype} is emulated on this {model.device}, slower than --dtype fp32")

    def expect(self, evaluations: int) -> None:
        """Say beforehand how many evaluations are coming, over all pictures, so that `editor` can prepare for them."""
        self.expected = evaluations

    def _long_on_cuda(self) -> bool:
        import torch

        there = self.device.startswith("cuda") or (self.device == "auto" and torch.cuda.is_available())
        return there and self.expected >= PAYS_TO_COMPILE

    def load(self, model: str | None, **options: Any) -> "Editor":
        """An editor on a model of this name, placed and sized as the options say."""
        from ddim_edit import Editor

        return Editor.from_pretrained(
            model, self.device, self.settled_dtype, self.size, self.offline, batch_size=self.batch_size, **options
        )

    @property
    def settled_dtype(self) -> str:
        """What the network computes in: as asked for, or as suits the device."""
        from ddim_edit import suited_dtype

        return suited_dtype(self.device) if self.dtype == "auto" else self.dtype

    def signed(self, recipe: "Recipe | ImageRecipe") -> Mapping[str, Any] | None:
        """Return the recipe as it is written into an image, or None under --no-metadata."""
        return recipe.to_json() if self.metadata else None

    def emit(self, row: Mapping[str, Any], written: Path | None = None) -> None:
        """Put a result on standard output: a JSON object if so asked, else the file it was written to, if any."""
        if self.as_json:
            click.echo(json.dumps(row, sort_keys=True))
        elif written is not None:
            click.echo(os.fsencode(written))  # the very bytes of the name, be they text or not

    def note(self, text: str) -> None:
        """Say what is good to know."""
        if not self.quiet:
            self._say(text)

    def warn(self, text: str) -> None:
        """Say what the user should act on."""
        self._say(f"warning: {text}")

    @contextmanager
    def survive(self, name: object) -> Iterator[None]:
        """Let one input fail without ending the batch; its name goes before what the error says."""
        try:
            yield
        except (DDIMEditError, OSError) as error:
            self.fail(name, error)

    def fail(self, name: object, error: DDIMEditError | OSError) -> None:
        """Count the failure of one input and say why it failed; its name goes before what the error says."""
        self.failures += 1
        text = plainly(error)
        # Errors of files begin with their name, with or without the folder.
        text = text.removeprefix(f"{name}: ").removeprefix(f"{Path(str(name)).name}: ")
        self._say(f"error: {name}: {text}")

    def batches(self, items: Iterable[Item], unit: str, count: int) -> Iterator[list[Item]]:
        """That many items in batches of the editor's size, with a bar on standard error where somebody looks."""
        from tqdm import tqdm

        hidden, coming = self.quiet or not sys.stderr.isatty(), iter(items)
        if not count:
            return
        with tqdm(total=count, unit=f" {unit}", disable=hidden, leave=False) as self._bar:
            while batch := list(islice(coming, self.editor.batch_size)):
                yield batch
                self._bar.update(len(batch))
        self._bar = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Show on standard error, where somebody looks, how many evaluations a long call has made."""
        from tqdm import tqdm

        hidden = self.quiet or not sys.stderr.isatty()
        with tqdm(bar_format="{elapsed}{postfix}", disable=hidden, leave=False) as self._bar:
            yield
        self._bar = None

    def leave(self) -> None:
        """End the command: with exit status 1 if anything failed."""
        if self.failures:
            raise click.exceptions.Exit(1)

    def _evaluated(self, pictures: int) -> None:
        self.evaluations += pictures
        if self._bar is not None:
            self._bar.set_postfix(evaluations=self.evaluations)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        click.echo(text, err=True)
