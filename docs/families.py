"""Write the section of docs/models.md that lists the families of checkpoints, from the registry.

    python docs/families.py

A test compares the page with the registry.
"""

from pathlib import Path

from ddim_edit import FAMILIES

PAGE = Path(__file__).parent / "models.md"
BEGIN, END = "<!-- begin of the families, which docs/families.py writes -->", "<!-- end of the families -->"
LABELS = {
    "example": "example",
    "files": "files",
    "recognised": "recognised by",
    "read": "read from the files",
    "assumed": "assumed",
    "sizes": "sizes",
    "memory": "peak memory",
    "works": "what works",
    "proven": "compared with",
}


def section() -> str:
    """Return a heading and a table for each family, in Markdown."""
    lines = []
    for family in FAMILIES.values():
        lines += ["", f"### {family.title}", "", f"| `{family.name}` | |", "|---|---|"]
        lines += [f"| {LABELS[name]} | {text} |" for name, text in family.facts.items()]
    return "\n".join([*lines, "", ""])


def renewed(page: str) -> str:
    """Return a page with the section as it is to be."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{section()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
