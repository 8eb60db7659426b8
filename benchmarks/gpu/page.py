"""`results-gpu.jsonl`, to which every result is added at once, and `results-gpu.md`, which is written anew from it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from timing import report
from timing.spread import Spread

from gpu.plan import SECTIONS, TINY, Row, Scale, Section
from gpu.targets import PEERS, Rows, inversions, ratio, verdicts

TITLE = "A GPU, as `python benchmarks/gpu_check.py` measured it"
REHEARSAL = "**This is a rehearsal at tiny size: it shows that everything runs, and its figures mean nothing.**"
JSON_LINES, PAGE = "results-gpu.jsonl", "results-gpu.md"


class Results:
    """What was told so far; whatever is told is on the disk when `add` returns.

    Args:
        folder: where to write.
        tiny: whether the figures mean nothing.
    """

    def __init__(self, folder: Path, tiny: bool) -> None:
        self._folder, self._tiny = folder, tiny
        self._said: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JSON_LINES).write_text("", encoding="utf-8")

    def add(self, section: str, said: Mapping[str, Any]) -> str:
        """Keep what is told of a section, as `watching.Tell` takes it; return it as a line of JSON."""
        kept = {"section": section, **said}
        self._said.append(kept)
        line = json.dumps(kept)
        with (self._folder / JSON_LINES).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.write()
        return line

    def rows(self) -> dict[str, list[Row]]:
        """Return the rows so far, by section."""
        found: dict[str, list[Row]] = {}
        for said in self._said:
            if "row" in said:
                found.setdefault(said["section"], []).append(said["row"])
        return found

    def targets(self) -> str:
        """Return the table of targets."""
        titles = {section.name: section.title for section in SECTIONS}
        found = verdicts(self.rows())
        return report.table(
            [
                {"of": titles[each.section], "target": each.wanted, "found": each.found, "verdict": each.word}
                for each in found
            ]
        )

    def write(self) -> None:
        """Write the page anew."""
        whole = self._folder / f".{PAGE}"
        whole.write_text(self.text(), encoding="utf-8")
        whole.replace(self._folder / PAGE)

    def text(self) -> str:
        """Return the page."""
        rows, scale = self.rows(), TINY if self._tiny else Scale()
        said = {section.name: [each for each in self._said if each["section"] == section.name] for section in SECTIONS}
        told = [_section(each, scale, rows, said[each.name]) for each in SECTIONS if said[each.name]]
        parts = [f"# {TITLE}", REHEARSAL * self._tiny, f"## Targets\n\n{self.targets()}", *told]
        return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section, scale: Scale, rows: Rows, said: Sequence[Mapping[str, Any]]) -> str:
    """One section: its note, its table, and what went wrong."""
    own = compared(rows, section.name)
    parts = [f"## {section.title}", section.note.format(**asdict(scale))]
    parts += [_targets(section, rows)]
    parts += [report.table([_cells(row) for row in own])] if own else []
    parts += ["\n".join(f"- {_where(each)}{each['note']}" for each in said if "note" in each)]
    parts += [f"{_where(each)}failed:\n\n```\n{each['error'].strip()}\n```" for each in said if "error" in each]
    parts += [f"Took {sum(each['took'] for each in said if 'took' in each):.0f} s."]
    return "\n\n".join(part for part in parts if part)


def _targets(section: Section, rows: Rows) -> str:
    """Return the targets of a section beside its results."""
    found = [each for each in verdicts(rows) if each.section == section.name]
    return "\n".join(f"- Target: {each.wanted}. **{each.word}**{each.found and f': {each.found}'}" for each in found)


def compared(rows: Rows, section: str) -> list[Row]:
    """Return the rows of a section, those of whole inversions with how many times faster they are than each peer's."""
    timed = inversions(rows)
    peers = [peer for peer in PEERS if any(row["variant"] == peer for row in timed)]
    return [
        {**row, **{f"x {peer}": ratio(timed, row, peer) for peer in peers}} if "inversion ms" in row else row
        for row in rows.get(section, ())
    ]


def _cells(row: Row) -> dict[str, Any]:
    """Return a row for tables: lists become spreads again, small errors keep their exponent."""
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return Spread(*value)
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return value


def _where(said: Mapping[str, Any]) -> str:
    return f"{said['case']}: " if said.get("case") else ""
