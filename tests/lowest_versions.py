"""Print the lowest version that pyproject.toml allows of each requirement, as constraints for pip.

`make test-lowest` installs exactly these and runs the suite, which fails if one of them is too low. Needs only the
standard library: it runs before anything is installed.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,.-]+\])?>=(?P<version>\d[\w.]*)")
"""NAME>=VERSION or NAME[EXTRA]>=VERSION, the only form of a requirement here."""


def read_requirements() -> list[str]:
    """Return the requirements of the build, the package, its extras and the groups; many occur more than once."""
    pyproject: dict[str, Any] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    requirements = [*pyproject["build-system"]["requires"], *pyproject["project"]["dependencies"]]
    for extra in pyproject["project"]["optional-dependencies"].values():
        requirements += extra
    for group in pyproject["dependency-groups"].values():
        requirements += [entry for entry in group if isinstance(entry, str)]
    return requirements


def pin(requirement: str) -> str:
    """Return NAME==VERSION with the lowest version of a requirement; ValueError for one of another form."""
    found = REQUIREMENT.fullmatch(requirement)
    if found is None:
        raise ValueError(f"{requirement}: write it as NAME>=VERSION.")
    return f"{found['name']}=={found['version']}"


if __name__ == "__main__":
    print(*sorted({pin(requirement) for requirement in read_requirements()}), sep="\n")
