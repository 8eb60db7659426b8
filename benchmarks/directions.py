"""Compare estimators and levels: how often an edit flips a judge, and its LPIPS to the source.

    python benchmarks/judge.py --data FOLDER -o judge.pt
    python benchmarks/directions.py --data FOLDER --judge judge.pt --cache LATENTS --json rows.jsonl

Directions are fitted on the first --train training faces and tried on the first --test test faces that have the label.
Every face is moved away from what the judge says of its source, by growing strengths; a flip is a change of verdict.
The last columns are read off the line through these points: the LPIPS at which 70 and 85 % have flipped.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judge import ATTRIBUTES, Faces, load_judge, read_faces, verdicts
from torch import Tensor, nn

from ddim_edit import Editor, InversionConfig, LatentCache, Latents, hardware, images, metrics
from ddim_edit.directions import (
    Direction,
    DirectionEstimator,
    LogisticDirection,
    MeanDifference,
    RidgeDirection,
    SVMDirection,
    fit_direction,
)
from ddim_edit.latents.cache import LatentArray

ESTIMATORS: Mapping[str, DirectionEstimator] = {
    "mean": MeanDifference(),
    "logistic": LogisticDirection(),
    "ridge": RidgeDirection(),
    "svm": SVMDirection(Cs=(1.0,)),
}
STRENGTHS = (1.0, 2.0, 3.0, 4.5, 6.0)
LIGHT = {"light": (0.299, 0.587, 0.114), "warm": (1.0, 0.0, -1.0)}
"""What "kept" rows hold still: how bright a picture is, and how red against blue."""
HEADER = (
    f"{'attribute':<10}{'level':<8}{'method':<10}{'AUC':>6}{'n':>6}  "
    f"{'flips / LPIPS at growing strength':<64}{'@70 %':>7}{'@85 %':>7}"
)


def main() -> None:
    """Print the table, row by row."""
    arguments = _arguments()
    editor = Editor.from_pretrained(dtype=arguments.dtype, batch_size=16)
    judge, lpips = load_judge(arguments.judge), metrics.LPIPS()
    train, test = read_faces(arguments.data, "train", arguments.train), read_faces(arguments.data, "test")
    files = images.find([arguments.data / "train"])[: arguments.train]
    print(f"{editor.model.name}, {editor.model.dtype}, {len(files)} training faces", flush=True)
    print(f"{hardware(editor.model.device)}\n\n{HEADER}", flush=True)
    for attribute in arguments.attributes if arguments.packaged else ():
        column = ATTRIBUTES.index(attribute)
        trial = Trial(editor, judge, lpips, _labelled(test, column, arguments.test), column, "0.4T")
        direction = editor.direction(attribute)
        row = {"attribute": attribute, "level": direction.level, **direction.report, "method": "packaged"}
        _report(row | trial.run(direction, arguments.strengths), arguments.json)
    for level in arguments.levels:
        (latents,) = editor.latents_at(
            files, [level], InversionConfig(grid="karras:14"), cache=LatentCache(arguments.cache)
        )
        light = []
        if level != "h":
            for name, weights in LIGHT.items():
                # A weighted mean of the pixels of each face.
                colours = torch.tensor(weights, dtype=torch.float64)
                values = torch.einsum("nchw,c->n", train.pictures.double(), colours) / 64**2
                light.append(fit_direction(name, latents, values.numpy(), RidgeDirection(), folds=0))
        for attribute in arguments.attributes:
            faces = _labelled(test, ATTRIBUTES.index(attribute), arguments.test)
            trial = Trial(editor, judge, lpips, faces, ATTRIBUTES.index(attribute), level)
            for method in ["mean"] if level == "h" else arguments.methods:
                direction = _fitted(attribute, latents, train.labels[:, trial.column], ESTIMATORS[method])
                row = {"attribute": attribute, "level": direction.level, "method": method, **direction.report}
                _report(row | trial.run(direction, arguments.strengths), arguments.json)
                if method == "mean" and level != "h":
                    held = row | {"method": "mean, kept"} | trial.run(direction, arguments.strengths, light)
                    _report(held, arguments.json)


def _report(row: Mapping[str, Any], log: Path | None) -> None:
    print(_line(row), flush=True)
    if log is not None:
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="train/, train.csv, test/, test.csv")
    parser.add_argument("--judge", type=Path, required=True, help="what judge.py wrote")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps the latents of training faces")
    parser.add_argument("--json", type=Path, help="file that gets one JSON row per line")
    parser.add_argument("--train", type=int, default=2048)
    parser.add_argument("--test", type=int, default=48)
    parser.add_argument("--dtype", default="bfloat16", help="of the network; bfloat16 where the processor has it")
    parser.add_argument("--packaged", action="store_true", help="try the packaged directions too")
    parser.add_argument("--levels", nargs="*", default=["0.4T", "0.6T", "0.8T", "xT", "h"])
    parser.add_argument("--methods", nargs="+", default=list(ESTIMATORS))
    parser.add_argument("--attributes", nargs="+", default=list(ATTRIBUTES))
    parser.add_argument("--strengths", nargs="+", type=float, default=list(STRENGTHS))
    return parser.parse_args()


def _labelled(faces: Faces, column: int, count: int) -> Tensor:
    return faces.pictures[~faces.labels[:, column].isnan()][:count]


def _fitted(attribute: str, latents: LatentArray, labels: Tensor, estimator: DirectionEstimator) -> Direction:
    known = ~labels.isnan()
    some = latents._replace(values=latents.values[known])
    return fit_direction(attribute, some, labels[known].double().numpy(), estimator, permutations=0)


class Trial:
    """Test faces inverted to one level, and the judge's logits before any edit."""

    def __init__(
        self, editor: Editor, judge: nn.Module, lpips: metrics.LPIPS, faces: Tensor, column: int, level: str
    ) -> None:
        self.editor, self.judge, self.lpips, self.faces, self.column = editor, judge, lpips, faces, column
        # A bottleneck is shifted on the way down from x_T.
        time = None if level in ("h", "xT") else float(level.removesuffix("T")) * editor.model.schedule.T
        self.latents = editor.invert(faces, InversionConfig(level=time))
        self.before = verdicts(judge, faces)[:, column]

    def run(self, direction: Direction, strengths: Sequence[float], held: Sequence[Direction] = ()) -> dict[str, Any]:
        """Return flip rates, LPIPS to the source, and changes of the other attribute's logit, by strength."""
        flips, lpips, drift = list[float](), list[float](), list[float]()
        for strength in strengths:
            edited = self._edit(direction, strength, held)
            logits = verdicts(self.judge, edited)
            flips.append(float(((logits[:, self.column] > 0) != (self.before > 0)).double().mean()))
            lpips.append(float(self.lpips(self.faces, edited.clamp(-1, 1)).mean()))
            other = (logits - verdicts(self.judge, self.faces))[:, 1 - self.column]
            drift.append(float(other.abs().mean()))
            if flips[-1] > 0.97:
                break
        at = {f"lpips_at_{rate}": _lpips_at(flips, lpips, rate / 100) for rate in (70, 85)}
        return {"strengths": list(strengths[: len(flips)]), "flips": flips, "lpips": lpips, "drift": drift, **at}

    def _edit(self, direction: Direction, strength: float, held: Sequence[Direction]) -> Tensor:
        edited = torch.empty_like(self.faces, dtype=torch.float64)
        for side in (self.before > 0, self.before <= 0):
            some = Latents([latent for latent, take in zip(self.latents, side.tolist(), strict=True) if take])
            if len(some):
                sign = -1 if bool(self.before[side][0] > 0) else 1
                edited[side] = self.editor.edit(some, {direction: sign * strength}, keep=held)
        return edited


def _lpips_at(flips: Sequence[float], lpips: Sequence[float], rate: float) -> float | None:
    """Return the LPIPS at which a rate is first reached, interpolated linearly from (0, 0)."""
    xs, ys = [0.0, *flips], [0.0, *lpips]
    for (x0, y0), (x1, y1) in pairwise(zip(xs, ys, strict=True)):
        if x0 < rate <= x1:
            return float(np.interp(rate, [x0, x1], [y0, y1]))
    return None


def _line(row: Mapping[str, Any]) -> str:
    points = " ".join(f"{flip:4.0%} /{cost:5.3f} " for flip, cost in zip(row["flips"], row["lpips"], strict=True))
    reached = "".join(f"{row[key]:>7.3f}" if row[key] else f"{'-':>7}" for key in ("lpips_at_70", "lpips_at_85"))
    head = f"{row['attribute']:<10}{row['level']:<8}{row['method']:<10}{row['auc']:>6.3f}{row['n']:>6}  "
    return f"{head}{points:<64}{reached}"


if __name__ == "__main__":
    main()
