"""Write directions, latents and models into repositories on the hub."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from ddim_edit.directions import SUFFIX as DIRECTION
from ddim_edit.directions import Direction
from ddim_edit.errors import ArgumentError, DDIMEditError, DirectionError, LatentError, ModelError
from ddim_edit.hub import cards
from ddim_edit.latents.latent import SUFFIX as LATENT
from ddim_edit.latents.latent import Latent
from ddim_edit.models.hub import list_checkpoint
from ddim_edit.models.hub_files import require_hub_id, upload_files
from ddim_edit.models.loading import load_model

Shareable: TypeAlias = Direction | Latent | str | Path
"""A direction, a latent, a file of one, or the folder of a model."""
Thing = TypeVar("Thing", Direction, Latent)
LONGEST_MESSAGE = 72
"""Characters of the message of a commit."""


def save_to_hub(
    things: Shareable | Sequence[Shareable],
    repo: str,
    *,
    license: str,  # noqa: A002 - the hub's own word
    description: str = "",
    private: bool | None = None,
) -> str:
    """Write directions, latents or a model into a repository on the hub, with a card, and return its address.

    The card says what they are, how they were fitted or made, which model, by its digests, and which grid they belong
    to, and how to use them. `find_direction`, `load_latents` and `load_model` take the id of the repository. Files of
    other names that are there already stay; the card is that of what is written now.

    Whoever has a latent and its model can see the image that it was made of. The token is the one that `hf auth login`
    has stored, or HF_TOKEN.

    Args:
        things: directions or latents of one model, or their files, one or several; or the folder of one model.
        repo: "owner/name", which is made if it does not exist.
        license: as the hub spells it, such as "mit" or "cc-by-nc-4.0". What was fitted to a model or to images may be
            bound by their terms.
        description: text for the card: of which data, for what, with which limits.
        private: whether a repository that is made is private; None leaves that to the owner's settings.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        ArgumentError: things of several kinds or models, no things, or a license or a name that the hub cannot have.
        DirectionError, LatentError, ModelError: a file that cannot be read, or the hub refuses or cannot be reached.

    Examples:
        >>> save_to_hub("smile.direction.safetensors", "someone/smile", license="mit")  # doctest: +SKIP
        'https://huggingface.co/someone/smile'
        >>> save_to_hub("smile.direction.safetensors", "smile", license="mit")
        Traceback (most recent call last):
            ...
        ddim_edit.errors.ArgumentError: 'smile' is no hub id such as owner/name. Check the spelling.
    """
    given = [things] if isinstance(things, Direction | Latent | str | Path) else list(things)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", license):
        raise ArgumentError(f"{license!r:.60} is no license as the hub spells them. Give one such as mit or cc-by-4.0.")
    require_hub_id(repo)
    kinds = {_kind(each) for each in given}
    if len(kinds) != 1 or (kinds == {Path} and len(given) > 1):
        raise ArgumentError("A repository holds directions, latents, or one model. Give things of one of these kinds.")
    with tempfile.TemporaryDirectory() as temporary:
        error: type[DDIMEditError]
        files: dict[str, Path]
        if kinds == {Direction}:
            error = DirectionError
            files, directions = _gather(given, Direction, DIRECTION, Path(temporary))
            about = cards.describe_directions(directions, repo)
        elif kinds == {Latent}:
            error = LatentError
            files, latents = _gather(given, Latent, LATENT, Path(temporary))
            about = cards.describe_latents(latents, repo)
        else:
            error = ModelError
            folder = Path(str(given[0]))
            files = {name: folder / name for name in list_checkpoint(folder)}
            about = cards.describe_model(load_model(folder), folder / cards.FILE, repo)
        card = cards.write(about, license, description)
        message = f"Add {', '.join(files)}"[:LONGEST_MESSAGE]
        return upload_files(repo, {**files, cards.FILE: card.encode()}, message, private, error)


def _kind(thing: Shareable) -> type:
    """Return `Direction`, `Latent`, or `Path` for a model."""
    if isinstance(thing, Direction | Latent):
        return type(thing)
    name = Path(thing).name
    if name.endswith(DIRECTION):
        return Direction
    return Latent if name.endswith(LATENT) else Path


def _gather(
    things: Sequence[Shareable], kind: type[Thing], suffix: str, folder: Path
) -> tuple[dict[str, Path], dict[str, Thing]]:
    """Return the files of directions or latents, and these themselves by name; those in memory are written to a folder.

    Raises:
        ArgumentError: two of one name.
        DirectionError, LatentError: a file that cannot be read.
    """
    files: dict[str, Path] = {}
    loaded: dict[str, Thing] = {}
    for number, thing in enumerate(things):
        if isinstance(thing, kind):
            # The hub's names have no other characters.
            name = re.sub(r"[^\w.-]+", "-", thing.name) if isinstance(thing, Direction) else f"{number:04}"
            path = folder / f"{name}{suffix}"
            value = thing
        else:
            path = Path(str(thing))
            name, value = path.name.removesuffix(suffix), kind.load(path)
        if name in loaded:
            raise ArgumentError(f"Two of these are called {name}. Give each a name of its own.")
        if value is thing:
            value.save(path)
        files[path.name], loaded[name] = path, value
    return files, loaded
