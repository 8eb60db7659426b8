"""Results: `results-gpu.jsonl`, to which each is added at once, and `results-gpu.md`, which is rewritten from it."""

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
    """The messages of all sections so far; each is on the disk when `add` returns.

    Args:
        folder: where to write.
        tiny: whether the figures mean nothing.
    """

    def __init__(self, folder: Path, tiny: bool) -> None:
        self._folder, self._tiny = folder, tiny
        self._messages: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JSON_LINES).write_text("", encoding="utf-8")

    def add(self, section: str, message: Mapping[str, Any]) -> str:
        """Keep a message of a section, as `watching.OnMessage` takes it; return it as a line of JSON."""
        kept = {"section": section, **message}
        self._messages.append(kept)
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
        for message in self._messages:
            if "row" in message:
                found.setdefault(message["section"], []).append(message["row"])
        return found

    def targets(self) -> str:
        """Return the table of targets."""
        titles = {section.name: section.title for section in SECTIONS}
        rows = []
        for each in verdicts(self.rows()):
            rows.append({"of": titles[each.section], "target": each.wanted, "found": each.found, "verdict": each.word})
        return report.table(rows)

    def write(self) -> None:
        """Write the page anew."""
        whole = self._folder / f".{PAGE}"
        whole.write_text(self.text(), encoding="utf-8")
        whole.replace(self._folder / PAGE)

    def text(self) -> str:
        """Return the page."""
        rows, scale = self.rows(), TINY if self._tiny else Scale()
        parts = [f"# {TITLE}", REHEARSAL if self._tiny else "", f"## Targets\n\n{self.targets()}"]
        for section in SECTIONS:
            messages = [message for message in self._messages if message["section"] == section.name]
            if messages:
                parts.append(_describe_section(section, scale, rows, messages))
        return _join_paragraphs(parts) + "\n"


def _describe_section(section: Section, scale: Scale, rows: Rows, messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a section: its note, its targets, its table, and what went wrong."""
    targets, notes, errors = list[str](), list[str](), list[str]()
    for verdict in verdicts(rows):
        if verdict.section == section.name:
            found = f": {verdict.found}" if verdict.found else ""
            targets.append(f"- Target: {verdict.wanted}. **{verdict.word}**{found}")
    seconds = 0.0
    for message in messages:
        case = f"{message['case']}: " if message.get("case") else ""
        if "note" in message:
            notes.append(f"- {case}{message['note']}")
        if "error" in message:
            errors.append(f"{case}failed:\n\n```\n{message['error'].strip()}\n```")
        seconds += message.get("took", 0.0)
    table_rows = []
    for row in compared(rows, section.name):
        table_rows.append({name: _cell(value) for name, value in row.items()})
    head = [f"## {section.title}", section.note.format(**asdict(scale)), "\n".join(targets)]
    table = report.table(table_rows) if table_rows else ""
    return _join_paragraphs([*head, table, "\n".join(notes), *errors, f"Took {seconds:.0f} s."])


def _join_paragraphs(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part)


def compared(rows: Rows, section: str) -> list[Row]:
    """Return the rows of a section, those of whole inversions with how many times faster they are than each peer's."""
    timed = inversions(rows)
    peers = [peer for peer in PEERS if any(row["variant"] == peer for row in timed)]
    found: list[Row] = []
    for row in rows.get(section, ()):
        if "inversion ms" in row:
            row = {**row, **{f"x {peer}": ratio(timed, row, peer) for peer in peers}}
        found.append(row)
    return found


def _cell(value: Any) -> Any:
    """Return a value for tables: lists become spreads again, small errors keep their exponent."""
    if isinstance(value, list):
        return Spread(*value)
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return value
