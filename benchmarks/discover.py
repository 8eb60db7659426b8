"""Measure what directions without labels change, against random ones of equal length.

    python benchmarks/discover.py --data FOLDER --count 8

For each of the first photographs of a folder, with faces64 in float32: LPIPS between the photograph and its edits along
the directions found at it, those found at the photograph before it, those found at the eight photographs after the
first ones together, and random ones. It prints the time and the passes of one discovery too, and how large the standard
deviations of latents are along the directions.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ddim_edit import Direction, Editor, hardware, load_model
from ddim_edit.metrics import LPIPS

LEVELS = ("0.4T", "0.6T")
STRENGTHS = (1.0, 2.0, 4.0, 6.0)
OTHERS = 8
SHOWN = 3


def random_directions(like: Direction, count: int, seed: int) -> list[Direction]:
    """Return random directions in the space of another one."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        vector = torch.randn(like.vector.shape, generator=generator, dtype=torch.float64)
        found.append(replace(like, name="random", vector=vector / vector.norm()))
    return found


def lpips_of(editor: Editor, lpips: LPIPS, file: Path, directions: Sequence[Direction]) -> torch.Tensor:
    """Return LPIPS [directions, strengths] between a photograph and its edits."""
    settings = [{each: strength} for each in directions for strength in (0.0, *STRENGTHS)]
    edited: torch.Tensor = editor.edits(file, settings)
    edited = edited.view(len(directions), -1, *edited.shape[1:])
    source = edited[:, :1].expand_as(edited[:, 1:])
    distances = lpips(source.flatten(0, 1).clamp(-1, 1), edited[:, 1:].flatten(0, 1).clamp(-1, 1))
    return distances.view(len(directions), -1)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of photographs of faces, 64x64 pixels")
    parser.add_argument("--count", type=int, default=8, help="how many of them are edited")
    parser.add_argument("--levels", default=",".join(LEVELS))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    passes: list[int] = []
    editor = Editor(load_model("faces64"), on_evaluation=passes.append)
    lpips = LPIPS()
    files = sorted(arguments.data.iterdir())
    edited, others = files[: arguments.count], files[arguments.count : arguments.count + OTHERS]
    print(hardware(editor.model.device))
    for level in arguments.levels.split(","):
        (latents,) = editor.latents_at(others, [level])
        together = editor.discover(others, SHOWN, level)
        before = editor.discover(files[arguments.count], SHOWN, level)
        rows: dict[str, list[torch.Tensor]] = {"own": [], "another photograph's": [], "of eight": [], "random": []}
        products, seconds, evaluations, spreads, values = [], [], [], [], []
        for number, file in enumerate(edited):
            passes.clear()
            start = time.process_time()
            own = editor.discover(file, 6, level)
            seconds.append(time.process_time() - start)
            evaluations.append(sum(passes))
            products.append(own[0].report["products"])
            values.append([each.report["singular_value"] for each in own])
            vectors = torch.stack([each.vector.flatten() for each in own])
            spreads.append((latents.values.flatten(1).double() @ vectors.T).std(0).mean())
            groups = [own, before, together, random_directions(own[0], 2, number)]
            for name, each in zip(rows, groups, strict=True):
                rows[name].append(lpips_of(editor, lpips, file, each))
            before = own[:SHOWN]
        mean = torch.tensor(values).mean(0).tolist()
        print(f"\n{level}: singular values {', '.join(f'{value:.1f}' for value in mean)}")
        print(f"{'LPIPS at strength':<24}" + "".join(f"{strength:>8g}" for strength in STRENGTHS))
        for name, found in rows.items():
            print(f"{name:<24}" + "".join(f"{value:>8.4f}" for value in torch.cat(found).mean(0).tolist()))
        print(
            f"products {sum(products) / len(products):.0f}, passes and evaluations "
            f"{sum(evaluations) / len(evaluations):.0f}, {sum(seconds) / len(seconds):.1f} s of CPU time, sd of "
            f"latents along them {torch.stack(spreads).mean():.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
