"""What is in the source archive and the wheel, and that the wheel runs from a clean environment without a network."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ASIDE = shutil.ignore_patterns(".*", "build", "dist", "out", "*.egg-info")
MADE_BY_THE_SITE = ("docs/reference/api/", "docs/reference/commands/", "docs/tutorial/", "docs/_build/")

pytestmark = pytest.mark.slow


def run(*command: object, **options: Any) -> str:
    """What a command prints; it must succeed."""
    line = [str(word) for word in command]
    done = subprocess.run(line, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(line)}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, of a copy of the source tree with compiled files among it, and the wheel made of it."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "source", ignore=ASIDE)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder / "source")
    shutil.rmtree(folder / "source")
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (built,) = dist.glob("*.whl")
    return built


def test_source_archive_has_what_builds_tests_and_documents_the_package(dist: Path) -> None:
    (built,) = dist.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    folders = ("assets", "benchmarks", "cli", "ddim_edit", "docs", "examples", "fuzz", "integrations", "tests")
    paths = {path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()}
    wanted = {str(path.relative_to(ROOT)) for path in paths if path.suffix != ".pyc"}
    wanted = {name for name in wanted if not name.startswith(MADE_BY_THE_SITE)}
    alone = {"pyproject.toml", "Makefile", "LICENSE", "CITATION.cff", "conda/recipe.yaml", "MANIFEST.in"}
    alone |= {path.name for path in ROOT.glob("*.md")}
    # setuptools adds these.
    added = {name for name in names if name.startswith("ddim_edit.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - added == wanted | alone


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_wheel_has_all_code_and_assets_and_nothing_else(wheel: Path) -> None:
    houses = {"ddim_edit": ROOT / "ddim_edit", "ddim_edit/cli": ROOT / "cli", "ddim_edit/assets": ROOT / "assets"}
    wanted = {
        f"{name}/{path.relative_to(folder)}"
        for name, folder in houses.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in names_in(wheel) if ".dist-info/" not in name} == wanted
    assert wanted > {
        "ddim_edit/py.typed",
        "ddim_edit/models/unet/network.py",
        "ddim_edit/images/reading.py",
        "ddim_edit/cli/main.py",
        "ddim_edit/assets/models/faces64/README.md",
        "ddim_edit/assets/models/faces64/unet/diffusion_pytorch_model.safetensors",
        "ddim_edit/assets/lpips/alexnet_features_fp16.safetensors",
        "ddim_edit/assets/images/astronaut.png",
    }


def test_metadata_is_that_of_the_project(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = metadata_of(wheel)
    assert (metadata["Name"], metadata["Version"]) == (project["name"], project["version"])
    assert metadata["Requires-Python"] == project["requires-python"]
    needed = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert needed == set(project["dependencies"])
    assert {"torch>=2.6", "torchvision>=0.21"} <= needed
    assert metadata.get_all("Provides-Extra") == sorted(project["optional-dependencies"])
    assert any(name.endswith("/LICENSE") for name in names_in(wheel))


def requirements(wheel: Path) -> list[Distribution]:
    """Return what the wheel needs, directly or not, as it is installed for these tests."""
    waiting = [Requirement(line) for line in metadata_of(wheel).get_all("Requires-Dist", []) if "extra ==" not in line]
    found: dict[str, Distribution] = {}
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in found:
            continue
        found[str(requirement)] = needed = distribution(requirement.name)
        extras = ("", *requirement.extras)
        for line in map(Requirement, needed.requires or []):
            if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(line)
    return list(found.values())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The programs of a clean environment that has the wheel and what it asks for, and no more.

    What it asks for is linked from the environment of these tests, which takes no download and no minute.
    """
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, system_site_packages=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    for needed in requirements(wheel):
        for top in {file.parts[0] for file in needed.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(needed.locate_file(top))))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder / "bin" / "python"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-compile", wheel)
    run(*pip, "check")
    yield folder / "bin"
    shutil.rmtree(folder)


def offline(command: list[str], folder: Path) -> tuple[list[str], dict[str, str]]:
    """The command without a network, and what its environment needs for that."""
    fence = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") and not subprocess.run([*fence, "true"], capture_output=True, check=False).returncode:
        return [*fence, *command], {}
    # Where the system has no such fence, Python itself refuses every connection.
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import socket\ndef refuse(*_): raise OSError('the network is switched off')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
    )
    return command, {"PYTHONPATH": str(folder)}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@dataclass(frozen=True)
class Newcomer:
    """Somebody with the clean environment, three empty folders that programs like to write to, and no network."""

    programs: Path
    folder: Path

    @property
    def places(self) -> dict[str, Path]:
        return {name: self.folder / name for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}

    @property
    def images(self) -> Path:
        (images,) = self.programs.parent.glob("lib/python*/site-packages/ddim_edit/assets/images")
        return images

    def types(self, *arguments: object) -> Any:
        """The one JSON row that `ddim-edit` answers from an empty folder, `here`."""
        command, extra = offline([str(self.programs / "ddim-edit"), *map(str, arguments)], self.folder / "fence")
        env = {"PATH": os.environ["PATH"]} | {name: str(place) for name, place in self.places.items()}
        return json.loads(run(*command, cwd=self.folder / "here", env=env | extra))


@pytest.fixture
def newcomer(installed: Path, tmp_path: Path) -> Newcomer:
    newcomer = Newcomer(installed, tmp_path)
    for folder in (tmp_path / "here", *newcomer.places.values()):
        folder.mkdir()
    return newcomer


def test_clean_environment_inverts_offline(newcomer: Newcomer) -> None:
    row = newcomer.types("invert", newcomer.images / "astronaut.png", "-o", "out", "--steps", "8", "--json")
    assert row["converged"]
    assert abs(row["xt_std"] - 1) < 0.05
    assert files_in(newcomer.folder / "here") == {"out", "out/astronaut.latent.safetensors"}
    assert [files_in(place) for place in newcomer.places.values()] == [set(), set(), set()]


def test_clean_environment_reconstructs_offline(newcomer: Newcomer) -> None:
    picture = newcomer.images / "seed-0028.png"
    row = newcomer.types("reconstruct", picture, "-o", "out", "--lossless", "--steps", "4", "--json", "-q")
    assert row["identical_pixels"] == 1
    assert 0 <= row["lpips"] < 1e-6
    assert files_in(newcomer.folder / "here") == {"out", "out/seed-0028-reconstructed.png", "out/sheet.png"}
    # To import torchvision makes an empty folder for torch's compiler among the temporary files.
    assert not files_in(newcomer.places["HOME"]) | files_in(newcomer.places["XDG_CACHE_HOME"])
