"""Models that come with the package. Nothing here imports torch, so that `ddim-edit models` answers at once."""

from importlib import resources
from pathlib import Path

DEFAULT_MODEL = "faces64"


def packaged_models() -> dict[str, Path]:
    """Return the folders of the models that come with the package, by name.

    Examples:
        >>> list(packaged_models())
        ['faces64']
    """
    folder = Path(str(resources.files("ddim_edit.assets"))) / "models"
    return {model.name: model for model in sorted(folder.iterdir()) if model.is_dir()}
