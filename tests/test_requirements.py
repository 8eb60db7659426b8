"""Every requirement in pyproject.toml has one lowest version, and `make test-lowest` tests them all."""

import tomllib

import pytest
import yaml

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
