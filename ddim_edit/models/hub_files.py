"""Files on the Hugging Face hub: found in its cache, downloaded into it because the user named them, and uploaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ddim_edit.errors import ArgumentError, DDIMEditError, ModelError, first_line
from ddim_edit.io.extras import import_extra, is_installed
from ddim_edit.models.announcements import announce

TIMEOUT = 5
"""Seconds without an answer of the hub until it counts as unreachable, unless HF_HUB_ETAG_TIMEOUT is set."""
_PART = r"[A-Za-z0-9][\w.-]*"
_HUB_ID = re.compile(
    rf"(?!.*(?:--|\.\.))(?P<repo>{_PART}/{_PART})(?:/(?P<name>{_PART}))?(?:@(?P<revision>[\w./-]+))?", re.ASCII
)


class HubId(NamedTuple):
    """A repository on the hub, and one of the files in it.

    Attributes:
        repo: "owner/name".
        name: of a file, without its suffix; None for whatever there is.
        revision: a branch, a tag or a commit; None for main.
    """

    repo: str
    name: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubId | None:
        """Return the id that a text is, "owner/name", "owner/name/file" or one of these with "@revision", or None.

        Examples:
            >>> HubId.parse("someone/faces/old@v1")
            HubId(repo='someone/faces', name='old', revision='v1')
            >>> HubId.parse("./old"), HubId.parse("old man")
            (None, None)
        """
        found = _HUB_ID.fullmatch(text)
        return None if found is None else cls(**found.groupdict())

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def find_files(hub_id: HubId, suffix: str, error: type[DDIMEditError], offline: bool = False) -> dict[str, Path]:
    """Return the files of a repository that end in a suffix, by their names without it.

    They come from the cache if any are there, else they are downloaded into it. What is in the cache is used without
    asking the hub, also where a branch has moved on since.

    Args:
        hub_id: the repository. If it names a file, that is the only one.
        suffix: of their names.
        error: what to raise.
        offline: whether only the cache is looked at; HF_HUB_OFFLINE=1 has the same effect.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        error: no such repository or file, no connection, or offline and not in the cache.
    """
    import_extra("huggingface_hub", "hub", f"There is no file {hub_id.repo!r}, and finding it on the hub")
    if files := _cached_files(hub_id, suffix):
        return files
    if is_offline(offline):
        raise error(
            f"{hub_id} is not in the cache of the hub, and we are offline. Fetch it once with a connection, or name a "
            "file."
        )
    return _download_files(hub_id, suffix, error)


def is_cached(hub_id: HubId, suffix: str) -> bool:
    """Return whether the cache has files with this suffix of a repository; never connects."""
    return is_installed("huggingface_hub") and bool(_cached_files(hub_id, suffix))


def _cached_files(hub_id: HubId, suffix: str) -> dict[str, Path]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    pattern = f"{hub_id.name or '*'}{suffix}"
    try:
        folder = snapshot_download(hub_id.repo, revision=hub_id.revision, allow_patterns=pattern, local_files_only=True)
    except LocalEntryNotFoundError:
        return {}
    return _glob(folder, pattern, suffix)


def _glob(folder: str, pattern: str, suffix: str) -> dict[str, Path]:
    # A link to what was never downloaded whole is not a file.
    files = [path for path in sorted(Path(folder).glob(pattern)) if path.is_file()]
    return {path.name.removesuffix(suffix): path for path in files}


def _download_files(hub_id: HubId, suffix: str, error: type[DDIMEditError]) -> dict[str, Path]:
    from huggingface_hub import HfApi

    api = HfApi()
    # Ask for the listing first: without a connection a download would wait and retry for long.
    with explaining_errors(str(hub_id), "cannot connect to the hub", error, "name a file"):
        listing = api.model_info(hub_id.repo, revision=hub_id.revision, timeout=find_timeout()).siblings or []
    names = [file.rfilename for file in listing if file.rfilename.endswith(suffix) and "/" not in file.rfilename]
    if not names:
        raise error(f"{hub_id} has no *{suffix} file. Check the spelling.")
    if hub_id.name is not None and f"{hub_id.name}{suffix}" not in names:
        known = ", ".join(name.removesuffix(suffix) for name in sorted(names))
        raise error(f"{hub_id} has no {hub_id.name}{suffix}. It has {known}.")
    pattern = f"{hub_id.name or '*'}{suffix}"
    announce(f"downloading {hub_id}")
    with explaining_errors(str(hub_id), "it did not arrive whole", error, "name a file"):
        folder = api.snapshot_download(
            hub_id.repo, revision=hub_id.revision, allow_patterns=pattern, etag_timeout=find_timeout()
        )
    return _glob(folder, pattern, suffix)


def upload_files(
    repo: str, files: Mapping[str, Path | bytes], message: str, private: bool | None, error: type[DDIMEditError]
) -> str:
    """Write files into a repository of models, in one commit, and return the address of its page.

    The repository is made if there is none. The token is the one that `hf auth login` has stored, or HF_TOKEN.

    Args:
        repo: "owner/name".
        files: by their paths there.
        message: of the commit.
        private: whether a repository that is made is private; None leaves that to the owner's settings.
        error: what to raise.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        ArgumentError: a name that no repository can have.
        error: nobody is logged in, the hub refuses, there is no connection, or HF_HUB_OFFLINE is set.
    """
    import_extra("huggingface_hub", "hub", "Writing to the hub")
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    require_hub_id(repo)
    if is_offline():
        raise error(f"{repo} cannot be written: HF_HUB_OFFLINE is set. Unset it.")
    if get_token() is None:
        raise error("You are not logged in to the hub. Run `hf auth login`, or set HF_TOKEN.")
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    api = HfApi()
    with explaining_errors(repo, "cannot reach the hub", error, "try again later"):
        page = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(repo, operations, commit_message=message)
    return str(page)


def require_hub_id(repo: str) -> None:
    """Refuse what is not "owner/name".

    Raises:
        ArgumentError: something else, also an id with a file or a revision.
    """
    if HubId.parse(repo) != HubId(repo):
        raise ArgumentError(f"{repo!r} is no hub id such as owner/name. Check the spelling.")


def is_offline(offline: bool = False) -> bool:
    """Return whether nothing may be connected to, because that was asked for or by HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    # The hub reads HF_HUB_OFFLINE once, when it is imported; it may have been set since.
    late = os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES
    return offline or constants.HF_HUB_OFFLINE or late


def find_timeout() -> float:
    """Return the seconds to wait for an answer of the hub: those of HF_HUB_ETAG_TIMEOUT, or ours."""
    from huggingface_hub import constants

    timeout = constants.HF_HUB_ETAG_TIMEOUT
    return TIMEOUT if timeout == constants.DEFAULT_ETAG_TIMEOUT else timeout


@contextmanager
def explaining_errors(
    name: str, otherwise: str, error: type[DDIMEditError] = ModelError, instead: str = "name a folder"
) -> Iterator[None]:
    """Raise the hub's errors as ours.

    Args:
        name: what was asked for.
        otherwise: describes errors that are not the hub's answer.
        error: what to raise.
        instead: what else the user can do.
    """
    try:
        yield
    except Exception as caught:  # of the hub, of its HTTP library or of the disk: they have no other common base
        raise error(f"{name}: {_explain(caught, otherwise, instead)}") from caught


def _explain(error: Exception, otherwise: str, instead: str) -> str:
    from huggingface_hub import errors

    reason = first_line(error)
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        refused = "the hub refused the token. Log in with one that may do this."
    else:
        refused = f"the hub refused ({reason}). Try again later, or {instead}."
    unreached = f"{otherwise} ({reason}). Check the connection, or {instead}."
    # The first that fits counts: most of these are subclasses of one further down.
    explanations: tuple[tuple[type[Exception], str], ...] = (
        (errors.LocalEntryNotFoundError, unreached),
        (errors.GatedRepoError, "it is gated. Accept its terms on its page and log in to the hub."),
        (errors.RepositoryNotFoundError, "the hub does not know it. Check the spelling, or log in to see it."),
        (errors.RevisionNotFoundError, "the hub does not know this revision. Check what follows the @."),
        (errors.HfHubHTTPError, refused),
        (Exception, unreached),
    )
    return next(explanation for kind, explanation in explanations if isinstance(error, kind))
