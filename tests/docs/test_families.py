"""The table of families in docs/models.md is that of the registry."""

from ddim_edit import FAMILIES
from ddim_edit.models.families.family import DiffusersFamily

from .pages import ROOT


def test_the_page_has_every_family_as_the_registry_does() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [f"| `{family.name}` | {family.title} | {family.files} | {family.help} |" for family in FAMILIES.values()]
    assert "\n".join(rows) in page


def test_the_page_says_how_every_network_is_recognised() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    recognised = page[page.index("## What is read") : page.index("## The registry")]
    networks = {family.network for family in FAMILIES.values() if isinstance(family, DiffusersFamily)}
    assert [network for network in networks if f"`{network}`" not in recognised] == []
