"""The session of a running command: its editor, what it prints, and how many of its inputs failed."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ddim_edit.errors import (
    ArgumentError,
    DDIMEditError,
    DirectionError,
    LatentMismatchError,
    ModelError,
    NonFiniteError,
)

from .progress import Progress
from .streams import StandardStreams

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import Editor, Model, ModelParts, NoiseSchedule, Recipe, Workload
    from ddim_edit.images import FaceTemplate
    from ddim_edit.latents.image_recipes import ImageRecipe

    FindWorkload = Callable[[NoiseSchedule], Workload]

Item = TypeVar("Item")
Result = TypeVar("Result")
LONG_JOB = 1_500_000
"""Evaluations from which compiling pays on a GPU: at 0.2 ms each, a minute is won back if it makes a fifth of it."""


def error_text(error: DDIMEditError | OSError) -> str:
    """Return what an error says, without the system's numbers."""
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    return str(error)


@dataclass
class Session:
    """One run of a command; nothing heavy is loaded before `editor` is asked for.

    Attributes:
        model, device, dtype, offline, base, scheduler, vae, compile, batch_size: as the options of their names.
        loras, embeddings: as --lora and --embedding.
        encoder_dtype, offload, runtime: as the options of their names.
        size: height and width in pixels, or None for the model's own.
        as_json: whether results are printed as JSON.
        quiet: whether notes are left out.
        metadata: whether images get the recipe that made them.
        recursive: whether folders are looked into below the first level.
        to_stdout: whether the one result goes to standard output, and nothing else.
        expected: network evaluations ahead, for `compile="auto"`.
        failures: number of inputs that failed so far.
    """

    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    size: tuple[int, int] | None = None
    offline: bool = False
    base: str | None = None
    scheduler: str | None = None
    vae: str | None = None
    loras: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    encoder_dtype: str | None = None
    offload: str | None = None
    runtime: str | None = None
    compile: str = "auto"
    batch_size: int | None = None
    as_json: bool = False
    quiet: bool = False
    metadata: bool = True
    recursive: bool = False
    to_stdout: bool = False
    streams: StandardStreams = field(default_factory=StandardStreams, repr=False)
    expected: int = 0
    failures: int = 0
    _first_refusal: str | None = field(default=None, repr=False)
    _told_of_faces: bool = field(default=False, repr=False)
    _progress: Progress | None = field(default=None, repr=False)

    @cached_property
    def editor(self) -> "Editor":
        """The editor on the session's model, loaded when it is first asked for."""
        editor = self.load(self.model, compiled=self.compiled, **self.parts)
        self.describe(editor.model)
        return editor

    @cached_property
    def face_template(self) -> "FaceTemplate | None":
        """The face template of the session's model, which need not be loaded for it."""
        from ddim_edit import load_face_template

        return load_face_template(self.model, self.offline)

    def can_align(self, template: "FaceTemplate | None") -> bool:
        """Return whether faces can be looked for and aligned to a template; say once what is missing for it."""
        from ddim_edit.images import can_find_faces

        if template is None or can_find_faces():
            return template is not None
        if not self._told_of_faces:
            self._told_of_faces = True
            self.note(
                "faces are not looked for without opencv-python-headless, so the centre square is used: pip install "
                "'ddim-edit[faces]'"
            )
        return False

    def load(self, model: str | None, **options: Any) -> "Editor":
        """Load another model, on the device, in the dtype and of the size of the session; lines tell of its parts."""
        from ddim_edit import Editor

        options = {"on_evaluation": self._count, "on_stage": self._begin, **options}
        with self.showing_progress():
            return Editor.from_pretrained(
                model, self.device, self.settled_dtype, self.size, self.offline, batch_size=self.batch_size, **options
            )

    @property
    def parts(self) -> "ModelParts":
        """What was asked to take the place of parts of the model, and how they are to run."""
        parts: ModelParts = {}
        if self.base is not None:
            parts["base"] = self.base
        if self.scheduler is not None:
            parts["scheduler"] = self.scheduler
        if self.vae is not None:
            parts["vae"] = self.vae
        if self.loras:
            parts["loras"] = self.loras
        if self.embeddings:
            parts["embeddings"] = self.embeddings
        if self.encoder_dtype is not None:
            parts["encoder_dtype"] = self.encoder_dtype
        if self.offload is not None:
            parts["offload"] = self.offload
        if self.runtime is not None:
            parts["runtime"] = self.runtime
        return parts

    def describe(self, model: "Model") -> None:
        """Note what runs where, and what about that may surprise."""
        chosen = ", chosen by --device auto" if self.device == "auto" else ""
        self.note(f"{model.name} in {model.dtype} on {model.device}{chosen}")
        if self.compiled:
            self.note("compiling the network first, about a minute for each batch size; --compile off does without")
        for note in model.notes:
            self.note(note)
        if not model.native:
            self.warn(f"{model.dtype} is emulated on this {model.device}, slower than --dtype fp32")

    @property
    def compiled(self) -> bool:
        """Whether to compile the network: because it was asked for, or because it pays for the job ahead."""
        if self.compile != "auto" or self.expected < LONG_JOB or self.offload is not None:
            return self.compile == "on"
        import torch

        return self.device.startswith("cuda") or (self.device == "auto" and torch.cuda.is_available())

    @property
    def settled_dtype(self) -> str:
        """The dtype that was asked for, or the one that suits the device and the runtime."""
        from ddim_edit import suited_dtype

        if self.dtype == "auto" and self.runtime == "onnx":
            return "float32"  # the only one that it has
        return suited_dtype(self.device) if self.dtype == "auto" else self.dtype

    def prefer_dtype(self, dtype: str) -> None:
        """Compute in a dtype, unless --dtype asks for another."""
        if self.dtype == "auto":
            self.dtype = dtype

    def recipe_json(self, recipe: "Recipe | ImageRecipe") -> Mapping[str, Any] | None:
        """Return a recipe as it is written into an image, or None under --no-metadata."""
        return recipe.to_json() if self.metadata else None

    def save_image(self, path: Path, image: "Tensor", recipe: "Recipe | ImageRecipe") -> None:
        """Write an image [3, H, W], in [-1, 1] or in uint8, with its recipe."""
        from ddim_edit.images import to_uint8, write

        write(path, to_uint8(image) if image.is_floating_point() else image, self.recipe_json(recipe))

    def emit(self, row: Mapping[str, Any], written: Path | None = None) -> None:
        """Print a result: as a JSON object with --json, else the name of the file it was written to, if any."""
        if self.to_stdout:
            if written is not None and written == self.streams.output:
                self.streams.copy_out()
        elif self.as_json:
            if row.get("input") == str(self.streams.input):
                row = {**row, "input": "-"}
            click.echo(json.dumps(row, sort_keys=True))
        elif written is not None:
            click.echo(os.fsencode(written))  # the very bytes of the name, whether they are text or not

    def print_table(self, text: str) -> None:
        """Print a table on standard output, or as a note where that is for JSON."""
        if self.as_json or self.to_stdout:
            self.note(text)
        else:
            click.echo(text)

    def note(self, text: str) -> None:
        """Print a note on standard error, unless --quiet."""
        if not self.quiet:
            self._print(text)

    def note_skipped(self, folder: Path, what: str) -> None:
        """Note what of a folder is passed over."""
        self.note(f"{folder}: passed over {what}")

    def warn(self, text: str) -> None:
        """Print on standard error what the user should act on."""
        self._print(f"warning: {text}")

    def warn_if_unconverged(self, source: Path, report: Mapping[str, Any]) -> None:
        """Warn about an inversion that did not meet its tolerance."""
        if not report["converged"]:
            self.warn(f"{source}: did not converge, so the best latent was kept; try more steps or another grid")

    @contextmanager
    def continue_on_error(self, name: object) -> Iterator[None]:
        """Let one input fail without ending the batch; its name goes before what the error says."""
        try:
            yield
        except (DDIMEditError, OSError) as error:
            self.fail(name, error)

    def fail(self, name: object, error: DDIMEditError | OSError) -> None:
        """Count the failure of one input and print why it failed, after its name."""
        self.failures += 1
        text = error_text(error)
        # Errors about files begin with their name, with or without the folder.
        text = text.removeprefix(f"{name}: ").removeprefix(f"{Path(str(name)).name}: ")
        named = text if text.startswith(f"{name} ") else f"{self.streams.name_of(name)}: {text}"
        self._print(f"error: {named}")

    def run_batch(
        self, batch: Sequence[Item], work: "Callable[[Sequence[Item]], Iterable[Result]]"
    ) -> "Iterator[tuple[Item, Result]]":
        """Yield the items of a batch, each a pair that begins with its file or job, with their results.

        Where a batch fails, its items run one by one, and only those at fault fail, each by its name. If the first two
        fail of the same, such as a direction of another model, it is said once and the command ends.
        """
        _ = self.editor  # a model that cannot be loaded is no fault of an input
        try:
            results = list(work(batch))
        except (DDIMEditError, OSError) as error:
            if len(batch) > 1:
                for item in batch:
                    yield from self.run_batch([item], work)
                return
            if isinstance(error, ArgumentError | ModelError | DirectionError | LatentMismatchError):
                if str(error) == self._first_refusal and not isinstance(error, NonFiniteError):
                    self.failures += 1
                    self.finish()
                # Until something succeeds, it may be the request that fails.
                self._first_refusal = str(error) if self._first_refusal is None else ""
            self.fail(getattr(batch[0][0], "source", batch[0][0]), error)  # type: ignore[index]
        else:
            self._first_refusal = ""
            yield from zip(batch, results, strict=True)

    def batches(
        self, items: Iterable[Item], count: int, workload: "FindWorkload", codec_passes: int = 0
    ) -> Iterator[list[Item]]:
        """Yield `count` items in batches of the editor's size, and show how far their evaluations are.

        Args:
            items: the items.
            count: how many there are.
            workload: returns the evaluations of all of them, for the schedule of the model once it is loaded.
            codec_passes: how many times an autoencoder encodes or decodes an image of each.
        """
        if not count:
            return
        remaining = iter(items)
        with self.counting_evaluations(count, workload, codec_passes) as progress:
            while batch := list(islice(remaining, self.editor.batch_size)):
                yield batch
                progress.finish_images(len(batch))

    @contextmanager
    def counting_evaluations(self, images: int, workload: "FindWorkload", codec_passes: int = 0) -> Iterator[Progress]:
        """Show how many evaluations of a long call are done. Arguments as `batches`."""
        model = self.editor.model  # loaded here, before there is a bar
        has_autoencoder = "autoencoder" in model.components
        with self.showing_progress() as progress:
            try:
                expected = workload(model.schedule)
            except DDIMEditError:
                expected = None  # what is wrong is said where it is met
            progress.expect(images, expected, codec_passes if has_autoencoder else 0)
            yield progress

    @contextmanager
    def showing_progress(self) -> Iterator[Progress]:
        """Show what is loaded, and how far the evaluations are that are counted inside."""
        if self._progress is not None:
            yield self._progress
            return
        if self.hides_progress:
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when a model is downloaded
        with Progress(self._print, self.quiet) as progress:
            self._progress = progress
            try:
                yield progress
            finally:
                self._progress = None

    @property
    def hides_progress(self) -> bool:
        """Whether nobody looks at standard error."""
        return self.quiet or not sys.stderr.isatty()

    def finish(self) -> None:
        """End the command, with exit status 1 if any input failed."""
        if self.failures:
            raise click.exceptions.Exit(1)

    def _count(self, images: int) -> None:
        if self._progress is not None:
            self._progress.count(images)

    def _begin(self, stage: str) -> None:
        if self._progress is not None:
            self._progress.begin(stage)

    def _print(self, text: str) -> None:
        if self._progress is not None:
            self._progress.clear()
        click.echo(text, err=True)
