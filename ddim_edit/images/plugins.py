"""Image formats that Pillow reads only with another package, each of which an extra installs."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import NamedTuple

from ddim_edit.io.extras import is_installed


class Plugin(NamedTuple):
    """A package that adds a format to Pillow.

    Attributes:
        name: of the format, for messages.
        package: name of the package on the index.
        module: to import.
        extra: the extra of ddim-edit that installs it.
        pillow_format: what Pillow calls the format.
        register: function of the module that adds the format; empty where importing it is enough.
    """

    name: str
    package: str
    module: str
    extra: str
    pillow_format: str
    register: str = ""

    @property
    def installed(self) -> bool:
        """Whether the package is there; it is not imported."""
        return is_installed(self.module)

    @property
    def remedy(self) -> str:
        """What to do where it is not, as a sentence."""
        return f"Run: pip install 'ddim-edit[{self.extra}]'"


HEIC = Plugin("HEIC", "pillow-heif", "pillow_heif", "heic", "HEIF", "register_heif_opener")
JXL = Plugin("JPEG XL", "pillow-jxl-plugin", "pillow_jxl", "jxl", "JXL")

PLUGINS: Mapping[str, Plugin] = {".heic": HEIC, ".heif": HEIC, ".hif": HEIC, ".jxl": JXL}
"""Plugins by the suffix of their files."""


@cache
def register_plugins() -> tuple[str, ...]:
    """Add the formats whose packages are installed to Pillow, and return what it calls them."""
    added = []
    for plugin in dict.fromkeys(PLUGINS.values()):
        if plugin.installed:
            module = import_module(plugin.module)
            if plugin.register:
                getattr(module, plugin.register)()
            added.append(plugin.pillow_format)
    return tuple(added)
