"""Every figure of speed, against a plain diffusers loop where there is one: JSON lines, tables and a page.

    python benchmarks/speed.py                          all of it: three quarters of an hour on two cores
    python benchmarks/speed.py --quick                  a small share of it, to see that it runs
    python benchmarks/speed.py --only a,f --device cuda -o benchmarks/results-h100.md

(a) step for step against diffusers  (b) error against evaluations, and time to 50 dB  (d) start-up
(e) folders and workers              (f) share of the network, and of the matrix peak
(g) one evaluation and a round trip beside other runtimes: ONNX Runtime, OpenVINO, torch.compile

What --only leaves out stays on the page as it was, if it was measured on the same machine.
"""

import argparse
import datetime
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from timing import comparison, folders, report, runtimes, share, startup
from timing.bench import ON_GPU, QUICK, Bench, BenchScale, BenchSection
from timing.machine import describe
from timing.place import Place

from ddim_edit.models.packaged import packaged_models

SECTIONS = (*comparison.SECTIONS, *startup.SECTIONS, *folders.SECTIONS, *share.SECTIONS, *runtimes.SECTIONS)
TITLE = "Speed, as `python benchmarks/speed.py` measured it"
MACHINE = "Machine"


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    arguments = _parse_arguments(words)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    place = Place(arguments.device)
    scale = QUICK if arguments.quick else ON_GPU if place.device.type == "cuda" else BenchScale()
    if arguments.batches:
        scale = scale._replace(batches=arguments.batches)
    bench = Bench(arguments.model.resolve(), place, scale, arguments.compiled)
    page = {MACHINE: report.table([describe(place)])}
    for section in SECTIONS:
        if section.letter in arguments.only:
            page[_heading(section)] = _measure(section, bench, arguments.date)
    old = report.read(arguments.output.read_text()) if arguments.output.exists() else {}
    arguments.output.write_text(report.write(TITLE, report.merged(old, page)))


def _parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    letters = list(dict.fromkeys(section.letter for section in SECTIONS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_parse_letters, default=letters, help="sections, as in a,b")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    parser.add_argument("--quick", action="store_true", help="few steps, small batches, no repetition")
    parser.add_argument("--batches", type=_parse_batches, help="in place of 1,8,64")
    parser.add_argument("--compiled", action="store_true", help="measure the compiled network, too")
    parser.add_argument("--model", type=Path, default=packaged_models()["faces64"], help="a diffusers folder")
    parser.add_argument("--threads", type=int, help="of the processor; as many as torch chooses when left out")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="to write down")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("results.md"))
    return parser.parse_args(words)


def _parse_letters(text: str) -> list[str]:
    known = {section.letter for section in SECTIONS}
    if not set(text.split(",")) <= known:
        raise argparse.ArgumentTypeError(f"sections out of {','.join(sorted(known))} are wanted, not {text!r}")
    return text.split(",")


def _parse_batches(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _heading(section: BenchSection) -> str:
    return f"({section.letter}) {section.title}"


def _measure(section: BenchSection, bench: Bench, date: str) -> str:
    """Print the rows of a section as they come, then its table; return its text."""
    heading, rows = _heading(section), []
    print(heading, file=sys.stderr, flush=True)
    for row in section.measure(bench):
        rows.append(row)
        print(report.as_json(heading, row), flush=True)
    shown = report.table(rows)
    print(f"\n{heading}\n\n{shown}\n", flush=True)
    return f"{section.note.format(**bench.scale._asdict())} Measured {date}.\n\n{shown}"


if __name__ == "__main__":
    warnings.simplefilter("default")
    main()
