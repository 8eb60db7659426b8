"""Errors that this package raises on purpose.

    DDIMEditError
    ├── ArgumentError            an argument that no call could work with (also a ValueError)
    ├── MissingExtraError        an optional dependency that is missing or too old (also an ImportError)
    ├── ImageError               an image file that cannot be read or written
    ├── ModelError               a checkpoint that cannot be loaded or run
    │   └── NonFiniteError           a part of a model that returned NaN or infinity for an image
    ├── LatentError              a latent file that cannot be read or written
    │   └── LatentMismatchError      a latent that belongs to another model, grid or solver
    └── DirectionError           a direction that cannot be fitted, read or written
        └── DirectionMismatchError   a direction that was fitted at another level, grid or model

The message of each is one or two plain sentences: what is wrong, where, and what to do, as in
"image.png: cannot read: file is truncated. Download it again."
"""

LONGEST_MESSAGE = 2000
"""Characters of a message that are shown. Messages quote file contents, which may be of any length."""


class DDIMEditError(Exception):
    """Base class of all errors raised on purpose by this package."""

    def __str__(self) -> str:
        message = super().__str__()
        return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}..."


class ArgumentError(DDIMEditError, ValueError):
    """An argument that no call could work with."""


class MissingExtraError(DDIMEditError, ImportError):
    """An optional dependency that is not installed, or too old.

    Args:
        package: name of the missing package, with the versions that will do if another one is installed.
        extra: the extra of ddim-edit that installs it.
        purpose: what it is needed for, as in "showing the page".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        # All three, because an error is unpickled by calling its class with them.
        super().__init__(package, extra, purpose)
        self.package = package
        self.extra = extra
        self.purpose = purpose

    def __str__(self) -> str:
        return (
            f"{self.purpose} needs {self.package}, which is not installed. Run: pip install 'ddim-edit[{self.extra}]'"
        )


class InputWarning(UserWarning):
    """A warning about input that can be used, but whose result may not be what it seems."""


class ImageError(DDIMEditError):
    """An image file that cannot be read, or an image that cannot be written."""


class ModelError(DDIMEditError):
    """A checkpoint that cannot be loaded, or cannot be run as it claims."""


class NonFiniteError(ModelError):
    """A network or autoencoder that returned NaN or infinity for an image; others may be fine."""


class LatentError(DDIMEditError):
    """A latent file that cannot be read, or a latent that cannot be written."""


class LatentMismatchError(LatentError):
    """A latent that belongs to another model, grid or solver than the one it met."""


class DirectionError(DDIMEditError):
    """A direction file that cannot be read, or a direction that cannot be fitted or written."""


class DirectionMismatchError(DirectionError):
    """A direction that was fitted at another level, grid or model than the one it met."""


def first_line(error: BaseException, length: int = 200) -> str:
    """Return the first line of the message of a library's error, cut short, or the error's class if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:length]
