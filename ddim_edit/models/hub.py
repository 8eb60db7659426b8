"""Find hub ids: the local folder of a diffusers checkpoint, from the hub's cache, or downloaded into it."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from ddim_edit.errors import ModelError
from ddim_edit.images.face_templates import TEMPLATE_FILE
from ddim_edit.io.extras import import_extra
from ddim_edit.io.schema import parse_json
from ddim_edit.models.announcements import announce
from ddim_edit.models.hub_files import explaining_errors, find_timeout, is_offline
from ddim_edit.models.typicality import FILE as TYPICALITY_FILE

_INDEX = "model_index.json"
_UNUSED = ("safety_checker",)
_WEIGHTS = re.compile(r"(?P<stem>diffusion_pytorch_model|model)(-\d{5}-of-(?P<shards>\d{5}))?\.safetensors")
_READ = re.compile(rf"[\w-]+\.json|{_WEIGHTS.pattern}(\.index\.json)?|(merges|vocab)\.txt|[\w.-]+\.(model|jinja)")
_REQUIRED_FILES: Mapping[str, tuple[set[str], ...]] = {
    "Scheduler": ({"scheduler_config.json"},),
    "Tokenizer": (
        {"tokenizer.json"},
        {"vocab.json", "merges.txt"},
        {"vocab.txt"},
        {"spiece.model"},
        {"tokenizer.model"},
        {"sentencepiece.bpe.model"},
    ),
    "Processor": ({"preprocessor_config.json"}, {"processor_config.json"}),
    "FeatureExtractor": ({"preprocessor_config.json"},),
}
"""Components without weights by a word in their class names: the sets of files, any one of which is a whole one."""


def fetch(name: str, offline: bool = False) -> Path:
    """Return the local folder of a hub id: from the cache if it is whole there, else downloaded.

    What is in the cache is used without asking the hub, also where a branch has moved on since. Nothing is connected to
    if `offline` or HF_HUB_OFFLINE is set. Of a repository only the components that its model_index.json names are
    downloaded, without the safety checker, as full-precision safetensors: no pickles, no single-file weights.

    Args:
        name: "owner/name", or "owner/name@revision" for a branch, a tag or a commit other than main.
        offline: whether only the cache is looked at; its folder is that of HF_HOME or HF_HUB_CACHE.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        ModelError: no such checkpoint there, one that is gated or has no safetensors, no connection, or offline and
            not whole in the cache.
    """
    repo, _, tag = name.partition("@")
    revision = tag or None
    folder = _find_cached(repo, revision)
    missing = None if folder is None else _incomplete_components(_files(folder), _read_index(folder / _INDEX, name))
    if folder is not None and not missing:
        return folder

    from huggingface_hub import constants

    if is_offline(offline):
        state = "is not there" if missing is None else f"has no whole {' and '.join(missing)} there"
        raise ModelError(
            f"{name} {state}, in the cache ({constants.HF_HUB_CACHE}), and we are offline. Fetch it once with a "
            "connection, or name a folder."
        )
    return _download(name, repo, revision)


def _find_cached(repo: str, revision: str | None) -> Path | None:
    """Return the snapshot in the cache, whole or not, without ever connecting."""
    import_extra("huggingface_hub", "diffusers", f"Finding the hub id {repo}")
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        for file in (_INDEX, "config.json"):
            path = try_to_load_from_cache(repo, file, revision=revision)
            if isinstance(path, str):  # else None, or a mark that the hub has no such file
                return Path(path).parent
    except HFValidationError as error:
        raise ModelError(f"{repo!r} is no hub id such as google/ddpm-cifar10-32. Check the spelling.") from error
    return None


def _files(folder: Path) -> set[str]:
    """Return relative names with "/", as the hub lists them."""
    # A link to what was never downloaded whole is not a file.
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _download(name: str, repo: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download, model_info, snapshot_download

    timeout = find_timeout()
    # Ask for the listing first: without a connection a download would wait and retry for long.
    with explaining_errors(name, "cannot connect to the hub"):
        listing = model_info(repo, revision=revision, timeout=timeout).siblings or []
    files = {file.rfilename for file in listing}
    index: Mapping[str, object] = {}
    if _INDEX in files:
        with explaining_errors(name, f"its {_INDEX} did not arrive"):
            path = hf_hub_download(repo, _INDEX, revision=revision, etag_timeout=timeout)
        index = _read_index(Path(path), name)
    elif "config.json" not in files:
        raise ModelError(
            f"{name} is no diffusers checkpoint: it has no {_INDEX}. Download the file that you want and name that."
        )
    # Refuse before anything large is downloaded.
    if missing := _incomplete_components(files, index):
        raise ModelError(
            f"{name} has no safetensors or no config for {' and '.join(missing)}. Save it once with diffusers' "
            "save_pretrained(FOLDER), and name FOLDER."
        )
    needed = needed_files(files, index)
    announce(f"downloading {name}")
    with explaining_errors(name, "it did not arrive whole"):
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=needed, etag_timeout=timeout))
    # A connection that is lost half-way gives a folder all the same.
    if missing := _incomplete_components(_files(folder), index):
        raise ModelError(f"{name}: no whole {' and '.join(missing)} arrived. Try again: what has arrived is kept.")
    return folder


def needed_files(files: Collection[str], index: Mapping[str, object]) -> list[str]:
    """Return which files of a repository or a folder are read: no pickles, no single-file weights, no samples."""
    folders = {_prefix(component, files) for component in _components(index)}
    needed = []
    for file in sorted(files):
        read = [prefix for prefix in folders if file.startswith(prefix) and _READ.fullmatch(file.removeprefix(prefix))]
        if file in (_INDEX, TEMPLATE_FILE, TYPICALITY_FILE) or read:
            needed.append(file)
    return needed


def list_checkpoint(folder: Path) -> list[str]:
    """Return the files of a diffusers folder that `fetch` would download if it were on the hub.

    Raises:
        ModelError: a folder that could not be loaded by a hub id.
    """
    files = _files(folder)
    if not {_INDEX, "config.json"} & files:
        raise ModelError(f"{folder} is no diffusers folder: it has no {_INDEX}. Only such folders load by a hub id.")
    index = _read_index(folder / _INDEX, str(folder))
    if missing := _incomplete_components(files, index):
        raise ModelError(
            f"{folder} has no safetensors or no config for {' and '.join(missing)}. Save it once with diffusers' "
            "save_pretrained(FOLDER), and name FOLDER."
        )
    return needed_files(files, index)


def _read_index(path: Path, name: str) -> Mapping[str, object]:
    """Return the contents of model_index.json; nothing where there is none."""
    try:
        index = parse_json(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{name}: its {_INDEX} is not JSON. Remove it from the cache.") from error
    return index if isinstance(index, dict) else {}


def _components(index: Mapping[str, object]) -> dict[str, str]:
    """Return the class of every component that we need, by name; without an index that of a network."""
    components: dict[str, str] = {}
    for name, entry in index.items():
        match entry:
            case [str(), str(kind)] if name not in _UNUSED:
                components[name] = kind
    return components or {"unet": "UNet2DModel"}


def _prefix(component: str, files: Collection[str]) -> str:
    """Return where a component's files are: old checkpoints such as google/ddpm-* keep everything in one folder."""
    return f"{component}/" if any(file.startswith(f"{component}/") for file in files) else ""


def _incomplete_components(files: Collection[str], index: Mapping[str, object]) -> list[str]:
    """Return the components of which these files are no whole ones."""
    incomplete = []
    for component, kind in _components(index).items():
        prefix = _prefix(component, files)
        names = {file.removeprefix(prefix) for file in files if file.startswith(prefix)}
        if not _is_whole(kind, names):
            incomplete.append(component)
    return incomplete


def _is_whole(kind: str, names: Collection[str]) -> bool:
    for word, alternatives in _REQUIRED_FILES.items():
        if word in kind:
            return any(required <= set(names) for required in alternatives)
    if "config.json" not in names:
        return False
    # Either one file of weights, or an index and every shard.
    shards: Counter[tuple[str, str | None]] = Counter()
    for name in names:
        if match := _WEIGHTS.fullmatch(name):
            shards[match["stem"], match["shards"]] += 1
    return any(
        of is None or (count == int(of) and f"{stem}.safetensors.index.json" in names)
        for (stem, of), count in shards.items()
    )
