"""The families in docs/models.md are those of the registry."""

import importlib.util

from ddim_edit import FAMILIES
from ddim_edit.models.families.family import DiffusersFamily

from .pages import ROOT


def test_the_page_has_every_family_as_the_registry_does() -> None:
    """`python docs/families.py` makes it so."""
    spec = importlib.util.spec_from_file_location("families", ROOT / "docs" / "families.py")
    assert spec is not None
    assert spec.loader is not None
    families = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(families)
    page = families.PAGE.read_text(encoding="utf-8")
    assert families.renewed(page) == page
    assert page.count("\n### ") == len(FAMILIES)


def test_every_family_says_how_it_is_recognised() -> None:
    for family in FAMILIES.values():
        if isinstance(family, DiffusersFamily):
            assert f"`{family.network}`" in family.notes.recognised
        assert family.facts.keys() >= {"example", "files", "recognised", "read", "sizes", "memory", "works", "proven"}
