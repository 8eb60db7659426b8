"""Every requirement in pyproject.toml has one lowest version; `make test-lowest`, conda and the documentation agree."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from .lowest_versions import PYPROJECT, pin, read_requirements

PROJECT = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))


def test_every_requirement_has_one_lowest_version() -> None:
    floors: dict[str, set[str]] = {}
    for requirement in read_requirements():
        name, _, version = pin(requirement).partition("==")
        floors.setdefault(name, set()).add(version)
    assert {"torch", "gradio", "huggingface-hub", "sphinx", "setuptools"} <= floors.keys()
    assert {name: versions for name, versions in floors.items() if len(versions) > 1} == {}


@pytest.mark.parametrize("requirement", ["gradio", "gradio==6.0", "gradio>=6.0,<7", "gradio>=6.*", "gradio~=6.0"])
def test_requirements_without_a_plain_lowest_version_are_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match="NAME>=VERSION"):
        pin(requirement)


@pytest.mark.parametrize("extra", PROJECT["project"]["optional-dependencies"])
def test_tests_install_every_extra(extra: str) -> None:
    assert set(PROJECT["project"]["optional-dependencies"][extra]) <= {
        str(entry) for entry in PROJECT["dependency-groups"]["test"]
    }


def test_ci_tests_the_lowest_versions_on_the_lowest_python() -> None:
    job = yaml.safe_load((PYPROJECT.parent / ".github" / "workflows" / "test.yml").read_text())["jobs"]["lowest"]
    python = next(step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {}))
    assert PROJECT["project"]["requires-python"] == f">={python}"
    assert any(step.get("run", "").startswith("make test-lowest") for step in job["steps"])


def test_conda_recipe_has_the_base_requirements() -> None:
    recipe = yaml.safe_load((PYPROJECT.parent / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    names = {"torch": "pytorch"}  # where conda-forge has another one
    wanted = {f"python {PROJECT['project']['requires-python']}"}
    for line in PROJECT["project"]["dependencies"]:
        requirement = Requirement(line)
        name = requirement.name.lower()
        wanted.add(f"{names.get(name, name)} {requirement.specifier}")
    assert set(recipe["requirements"]["run"]) == wanted
    assert recipe["package"] == {name: PROJECT["project"][name] for name in ("name", "version")}


def test_documented_extras_are_those_of_the_project() -> None:
    page = (PYPROJECT.parent / "docs" / "howto" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([\w, -]+) \|$", page, re.MULTILINE)
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {extra: [Requirement(line).name for line in lines] for extra, lines in extras.items()}
    assert {extra: packages.split(", ") for extra, packages in rows} == wanted
    assert f"[{','.join(wanted)}]" in page
