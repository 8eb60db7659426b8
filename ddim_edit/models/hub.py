"""Hub ids: the local folder of a diffusers checkpoint, from the hub's cache, or downloaded into it."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ddim_edit.errors import ModelError
from ddim_edit.io.schema import parse_json

TIMEOUT = 5
"""Seconds that the hub may stay silent before we say so, unless HF_HUB_ETAG_TIMEOUT says how many."""
_INDEX = "model_index.json"
_UNUSED = ("safety_checker",)
_WEIGHTS = re.compile(r"(?P<stem>diffusion_pytorch_model|model)(-\d{5}-of-(?P<shards>\d{5}))?\.safetensors")
_READ = re.compile(rf"[\w-]+\.json|{_WEIGHTS.pattern}(\.index\.json)?|(merges|vocab)\.txt|[\w.-]+\.model")
# What has no weights, by a word in its class name, and the files any one set of which makes it whole.
_WEIGHTLESS: Mapping[str, tuple[set[str], ...]] = {
    "Scheduler": ({"scheduler_config.json"},),
    "Tokenizer": (
        {"tokenizer.json"},
        {"vocab.json", "merges.txt"},
        {"vocab.txt"},
        {"spiece.model"},
        {"tokenizer.model"},
        {"sentencepiece.bpe.model"},
    ),
    "Processor": ({"preprocessor_config.json"},),
    "FeatureExtractor": ({"preprocessor_config.json"},),
}


def fetch(name: str, offline: bool = False) -> Path:
    """The local folder of a hub id: cached if it is whole there, else downloaded; no pickles, no single-file weights.

    What is cached is used without asking the hub, also where a branch has moved on since. Nothing is connected to
    where `offline` or HF_HUB_OFFLINE says so. Of a repository only the components that its model_index.json names are
    downloaded, without the safety checker, as full-precision safetensors.

    Args:
        name: "owner/name", or "owner/name@revision" for a branch, a tag or a commit other than main.
        offline: whether only the cache is looked at; it lies where HF_HOME or HF_HUB_CACHE says.

    Raises:
        ModelError: no huggingface_hub, no such checkpoint there, one that is gated or has no safetensors, no
            connection, or offline and not whole in the cache.
    """
    repo, _, tag = name.partition("@")
    revision = tag or None
    folder = _cached(repo, revision)
    lacking = None if folder is None else _lacking(_files(folder), _read_index(folder / _INDEX, name))
    if folder is not None and not lacking:
        return folder
    if offline or _told_to_stay_offline():
        raise _not_cached(name, lacking)
    return _download(name, repo, revision)


def _told_to_stay_offline() -> bool:
    from huggingface_hub import constants

    late = os.environ.get("HF_HUB_OFFLINE", "")  # the hub reads it once, when it is imported
    return constants.HF_HUB_OFFLINE or late.upper() in constants.ENV_VARS_TRUE_VALUES


def _cached(repo: str, revision: str | None) -> Path | None:
    """The snapshot in the cache, whole or not; nothing here ever connects."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        remedy = "pip install 'ddim-edit[diffusers]', or check the path"
        raise ModelError("a model folder, or huggingface_hub to find a hub id with", repo, remedy) from error
    try:
        found = [try_to_load_from_cache(repo, file, revision=revision) for file in (_INDEX, "config.json")]
    except HFValidationError as error:
        raise ModelError("a hub id such as google/ddpm-cifar10-32", repr(repo), "check the spelling") from error
    return next((Path(path).parent for path in found if isinstance(path, str)), None)


def _files(folder: Path) -> set[str]:
    """Relative names with "/", as the hub lists them; a link to what was never downloaded whole is not a file."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _not_cached(name: str, lacking: Collection[str] | None) -> ModelError:
    from huggingface_hub import constants

    state = "which is not there" if lacking is None else f"of which it has no whole {' and '.join(lacking)}"
    return ModelError(
        f"a checkpoint in the cache ({constants.HF_HUB_CACHE}), as we are offline",
        f"{name}, {state}",
        "fetch it once with a connection, or name a folder",
    )


def _download(name: str, repo: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download, model_info, snapshot_download

    patience = _patience()
    with _in_one_sentence(name, "and no connection to the hub"):  # first, because the download would wait or retry long
        listing = model_info(repo, revision=revision, timeout=patience).siblings or []
    files = {file.rfilename for file in listing}
    index: Mapping[str, object] = {}
    if _INDEX in files:
        with _in_one_sentence(name, f"whose {_INDEX} did not arrive"):
            path = hf_hub_download(repo, _INDEX, revision=revision, etag_timeout=patience)
        index = _read_index(Path(path), name)
    _check_offer(name, files, index)
    with _in_one_sentence(name, "which did not arrive whole"):
        wanted = _wanted(files, index)
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted, etag_timeout=patience))
    if lacking := _lacking(_files(folder), index):  # a connection lost half-way gives a folder all the same
        given = f"{name}, of which no whole {' and '.join(lacking)} arrived"
        raise ModelError("a checkpoint from the hub", given, "try again: what has arrived is kept")
    return folder


def _patience() -> float:
    from huggingface_hub import constants

    given = constants.HF_HUB_ETAG_TIMEOUT
    return TIMEOUT if given == constants.DEFAULT_ETAG_TIMEOUT else given


def _check_offer(name: str, files: Collection[str], index: Mapping[str, object]) -> None:
    """Refuse before anything large is downloaded."""
    wanted = "a diffusers checkpoint in safetensors on the hub"
    if _INDEX not in files and "config.json" not in files:
        raise ModelError(wanted, f"{name}, which has no {_INDEX}", "download the file that you want and name that")
    if lacking := _lacking(files, index):
        given = f"{name}, which has no safetensors or no config for {' and '.join(lacking)}"
        raise ModelError(wanted, given, "save it once with diffusers' save_pretrained(FOLDER), and name FOLDER")


@contextmanager
def _in_one_sentence(name: str, otherwise: str) -> Iterator[None]:
    """The hub's errors as ours; `otherwise` describes those that are not the hub's answer."""
    try:
        yield
    except Exception as error:  # of the hub, of its HTTP library or of the disk: they have no other common base
        given, remedy = _explain(error, otherwise)
        raise ModelError("a checkpoint on the hub", f"{name}, {given}", remedy) from error


def _explain(error: Exception, otherwise: str) -> tuple[str, str]:
    from huggingface_hub import errors

    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    unreached = f"{otherwise} ({reason})", "check the connection, or name a folder"
    # The first that fits counts: most of them are also one of those further down.
    meanings: tuple[tuple[type[Exception], tuple[str, str]], ...] = (
        (errors.LocalEntryNotFoundError, unreached),
        (errors.GatedRepoError, ("which is gated", "accept its terms on its page and log in to the hub")),
        (errors.RepositoryNotFoundError, ("which the hub does not know", "check the spelling, or log in to see it")),
        (errors.RevisionNotFoundError, ("a revision which the hub does not know", "check what follows the @")),
        (errors.HfHubHTTPError, (f"and the hub refused ({reason})", "try again later, or name a folder")),
        (Exception, unreached),
    )
    return next(meaning for kind, meaning in meanings if isinstance(error, kind))


def _read_index(path: Path, name: str) -> Mapping[str, object]:
    """What model_index.json says; nothing where there is none."""
    try:
        index = parse_json(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"a {_INDEX} that is JSON", f"that of {name}", "remove it from the cache") from error
    return index if isinstance(index, dict) else {}


def _components(index: Mapping[str, object]) -> dict[str, str]:
    """The class of every component that we need, by name; without an index a network."""
    named: dict[str, str] = {}
    for name, entry in index.items():
        match entry:
            case [str(), str(kind)] if name not in _UNUSED:
                named[name] = kind
    return named or {"unet": "UNet2DModel"}


def _place(component: str, files: Collection[str]) -> str:
    """Where a component's files are: old checkpoints such as google/ddpm-* keep everything in one folder."""
    return f"{component}/" if any(file.startswith(f"{component}/") for file in files) else ""


def _wanted(files: Collection[str], index: Mapping[str, object]) -> list[str]:
    """Those of the files that we read."""
    places = {_place(component, files) for component in _components(index)}
    return sorted(file for file in files if file == _INDEX or any(_is_read(file, place) for place in places))


def _is_read(file: str, place: str) -> bool:
    return file.startswith(place) and _READ.fullmatch(file.removeprefix(place)) is not None


def _lacking(files: Collection[str], index: Mapping[str, object]) -> list[str]:
    """The components that these files do not make whole."""
    return [component for component, kind in _components(index).items() if not _is_whole(component, kind, files)]


def _is_whole(component: str, kind: str, files: Collection[str]) -> bool:
    place = _place(component, files)
    names = {file.removeprefix(place) for file in files if file.startswith(place)}
    for word, ways in _WEIGHTLESS.items():
        if word in kind:
            return any(way <= names for way in ways)
    return "config.json" in names and _has_weights(names)


def _has_weights(names: Collection[str]) -> bool:
    """Whether there is a file of weights, or an index and every shard."""
    found = Counter((match["stem"], match["shards"]) for name in names if (match := _WEIGHTS.fullmatch(name)))
    return any(
        shards is None or (count == int(shards) and f"{stem}.safetensors.index.json" in names)
        for (stem, shards), count in found.items()
    )
