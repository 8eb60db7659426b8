"""Every error this package raises on purpose, in one short tree.

    DDIMEditError
    ├── ArgumentError        a value that no call could work with (also a ValueError)
    ├── ImageError           a file that is not a picture we can read, or cannot be written
    ├── ModelError           a folder or checkpoint that we cannot run as it claims
    ├── LatentError          a latent file that cannot be read, or cannot be written
    │   └── LatentMismatchError      a latent that belongs to another model, grid or solver
    └── DirectionError       a direction that cannot be fitted, read or written
        └── DirectionMismatchError   a direction that was fitted at another level, grid or model

Each is raised with what was wanted, what was given and what to do about it, and reads as one sentence.
"""

LONGEST = 600
"""Letters of a part of an error that are shown; what files hold may be of any length."""


class DDIMEditError(Exception):
    """Base of all errors raised on purpose; its text is one sentence.

    Args:
        wanted: what would have been accepted, as in "an image file".
        given: what arrived instead, as in "an empty file".
        remedy: what the reader can do now, as in "check the download".
    """

    def __init__(self, wanted: str, given: str, remedy: str) -> None:
        super().__init__(wanted, given, remedy)  # kept apart, so that the error survives pickling

    def __str__(self) -> str:
        wanted, given, remedy = (part if len(part) <= LONGEST else f"{part[:LONGEST]}..." for part in self.args)
        return f"wanted {wanted}, was given {given}: {remedy}"


class ArgumentError(DDIMEditError, ValueError):
    """A value that no call could work with."""


class ImageError(DDIMEditError):
    """A file that is not a picture we can read, or a picture that cannot be written."""


class ModelError(DDIMEditError):
    """A folder or checkpoint that cannot be run as it claims."""


class LatentError(DDIMEditError):
    """A latent file that cannot be read, or a latent that cannot be written."""


class LatentMismatchError(LatentError):
    """A latent that belongs to another model, grid or solver than the one it met."""


class DirectionError(DDIMEditError):
    """A direction file that cannot be read, or a direction that cannot be fitted or written."""


class DirectionMismatchError(DirectionError):
    """A direction that was fitted at another level, grid or model than the one it met."""
