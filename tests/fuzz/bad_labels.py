"""CSV files from which no direction is fitted."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from .. import tiny
from .kit import DIRECTION, Kit, Line, Make
from .spoiling import BYTES, share


def labels(content: bytes, *condition: str, column: str = "age") -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        for seed in range(3):
            tiny.save_picture(folder / f"{seed}.png", seed)
        (folder / "labels.csv").write_bytes(content)
        where = ["--images", folder, "--labels", folder / "labels.csv", "--column", column]
        return ["fit", "old", *where, *condition, "-o", folder / f"old{DIRECTION}", "--steps", "2"]

    return make


CSV = b"file,age\n0.png,20\n1.png,60\n2.png,61\n"
LABELS: Mapping[str, Make] = {
    **{name: labels(spoil(CSV)) for name, spoil in share(BYTES, 0, 3).items()},
    "header alone": labels(b"file,age\n"),
    "of another header": labels(CSV.replace(b"age", b"years")),
    "without file": labels(b"who,age\nann,20\nbob,60\n"),
    "with two columns of files": labels(b"one,age,two\n0.png,20,1.png\n1.png,60,2.png\n"),
    "with one image twice": labels(CSV + b"0.png,30\n"),
    "with two columns of that name": labels(b"file,age,age\n0.png,1,2\n1.png,2,3\n"),
    "in UTF-16": labels(CSV.decode().encode("utf-16")),
    "in Latin-1": labels("file,age\n0.png,20\nÄ.png,60\n".encode("latin-1")),
    "with NUL": labels(CSV + b"\0"),
    "with an open quote": labels(CSV + b'"3.png,4\n'),
    "with text after a quote": labels(b'file,age\n"0.png"x,20\n'),
    "with too many cells": labels(CSV + b"3.png,1,2\n"),
    "with a million columns": labels(b"file,age" + b",c" * 1_000_000 + b"\n0.png,20\n1.png,20\n"),
    "with a million cells in a row": labels(b"file,age\n0.png,20" + b",1" * 1_000_000 + b"\n"),
    "with a cell of a megabyte": labels(b"file,age\n" + b"a" * 1_000_000 + b",20\n"),
    "with words for numbers": labels(CSV.replace(b"20", b"young")),
    "with labels that are all unknown": labels(b"file,age\n0.png,nan\n1.png,?\n2.png,NA\n"),
    "with infinity": labels(CSV.replace(b"20", b"inf")),
    "with a very long number": labels(CSV.replace(b"20", b"1" + b"0" * 10_000)),
    "all alike": labels(b"file,age\n0.png,20\n1.png,20\n2.png,20\n"),
    "of absent files": labels(CSV.replace(b".png", b".jpg")),
    "of files elsewhere": labels(CSV.replace(b"0.png", b"../0.png")),
    "of the system's files": labels(CSV.replace(b"0.png", b"/etc/passwd")),
    "of folders": labels(b"file,age\n.,20\n./,60\n"),
    "of very long names": labels(b"file,age\n" + b"a" * 5000 + b",20\n" + b"b" * 5000 + b",60\n"),
    "with returns alone": labels(CSV.replace(b"\n", b"\r") + b'"'),
    "with a condition that none meets": labels(CSV, "--positive", ">=99"),
    "with a condition that all meet": labels(CSV, "--positive", ">=1"),
    "with conditions that overlap": labels(CSV, "--positive", ">=20", "--negative", "<=60"),
    "with a malformed condition": labels(CSV, "--positive", "=>20"),
    "with a range backwards": labels(CSV, "--positive", "30..20"),
    "with the negative alone": labels(CSV, "--negative", "<30"),
    "with an unknown column": labels(CSV, column="sex"),
    "with an empty column": labels(CSV, column=" "),
}


def label_cases() -> Iterator[tuple[str, Make]]:
    for name, make in LABELS.items():
        yield f"labels {name}", make
