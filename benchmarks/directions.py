"""Compare estimators and levels: how often an edit flips a judge, and its LPIPS to the source.

    python benchmarks/judge.py --data FOLDER -o judge.pt
    python benchmarks/directions.py --data FOLDER --judge judge.pt --cache LATENTS --json rows.jsonl

Directions are fitted on the first --train training faces and tried on the first --test test faces that have the label.
Every face is moved away from what the judge says of its source, by growing strengths; a flip is a change of verdict.
The last columns are read off the line through these points: the LPIPS at which 70, 85 and 95 % have flipped, and the
distance of identity at 95 %, by a network of its own (identity.py says what to install).
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from identity import IdentityJudge
from judge import ATTRIBUTES, Faces, load_judge, read_faces, verdicts
from torch import Tensor, nn

from ddim_edit import Editor, InversionConfig, LatentCache, hardware, images, metrics
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
from ddim_edit.latents.spaces import parse_level

ESTIMATORS: Mapping[str, DirectionEstimator] = {
    "mean": MeanDifference(),
    "logistic": LogisticDirection(),
    "ridge": RidgeDirection(),
    "svm": SVMDirection(Cs=(1.0,)),
}
RATES = ("lpips_at_70", "lpips_at_85", "lpips_at_95", "identity_at_95")
STRENGTHS = (1.0, 2.0, 3.0, 4.5, 6.0)
LIGHT = {"light": (0.299, 0.587, 0.114), "warm": (1.0, 0.0, -1.0)}
"""What "kept" rows hold still: how bright a picture is, and how red against blue."""
HEADER = (
    f"{'attribute':<10}{'level':<8}{'method':<10}{'AUC':>6}{'n':>6}  "
    f"{'flips / LPIPS at growing strength':<64}{'@70 %':>7}{'@85 %':>7}{'@95 %':>7}{'id @95 %':>10}"
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
    for name in arguments.packaged:
        direction = editor.direction(name)
        attribute = direction.name.removesuffix("-guided")
        column = ATTRIBUTES.index(attribute)
        trial = Trial(editor, judge, lpips, _labelled(test, column, arguments.test, arguments.skip), column)
        row = {"attribute": attribute, "level": direction.level, **direction.report, "method": "packaged"}
        _report(row | trial.run(direction, arguments.strengths), arguments.json)
    for level in arguments.levels:
        parsed = parse_level(level, editor.model.schedule.T)
        config = InversionConfig() if parsed.guided else InversionConfig(grid="karras:14")
        (latents,) = editor.latents_at(files, [level], config, cache=LatentCache(arguments.cache))
        light = []
        if not parsed.bottleneck:
            for name, weights in LIGHT.items():
                # A weighted mean of the pixels of each face.
                colours = torch.tensor(weights, dtype=torch.float64)
                values = torch.einsum("nchw,c->n", train.pictures.double(), colours) / 64**2
                light.append(fit_direction(name, latents, values.numpy(), RidgeDirection(), folds=0))
        for attribute in arguments.attributes:
            faces = _labelled(test, ATTRIBUTES.index(attribute), arguments.test, arguments.skip)
            trial = Trial(editor, judge, lpips, faces, ATTRIBUTES.index(attribute))
            for method in ["mean"] if level == "h" else arguments.methods:
                direction = _fitted(attribute, latents, train.labels[:, trial.column], ESTIMATORS[method])
                row = {"attribute": attribute, "level": direction.level, "method": method, **direction.report}
                _report(row | trial.run(direction, arguments.strengths), arguments.json)
                if method == "mean" and light:
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
    parser.add_argument("--skip", type=int, default=0, help="test faces to leave out before those")
    parser.add_argument("--packaged", nargs="*", default=[], help="packaged directions or files to try too")
    parser.add_argument("--levels", nargs="*", default=["guided:0.2T", "0.4T", "0.6T", "0.8T", "xT", "h"])
    parser.add_argument("--methods", nargs="+", default=list(ESTIMATORS))
    parser.add_argument("--attributes", nargs="+", default=list(ATTRIBUTES))
    parser.add_argument("--strengths", nargs="+", type=float, default=list(STRENGTHS))
    return parser.parse_args()


def _labelled(faces: Faces, column: int, count: int, skip: int) -> Tensor:
    return faces.pictures[~faces.labels[:, column].isnan()][skip : skip + count]


def _fitted(attribute: str, latents: LatentArray, labels: Tensor, estimator: DirectionEstimator) -> Direction:
    known = ~labels.isnan()
    some = latents.take(known)
    return fit_direction(attribute, some, labels[known].double().numpy(), estimator, permutations=0)


class Trial:
    """Test faces, and what the judges say of them before any edit."""

    def __init__(self, editor: Editor, judge: nn.Module, lpips: metrics.LPIPS, faces: Tensor, column: int) -> None:
        self.editor, self.judge, self.lpips, self.faces, self.column = editor, judge, lpips, faces, column
        self.before = verdicts(judge, faces)[:, column]
        self.identity = IdentityJudge(faces)

    def run(self, direction: Direction, strengths: Sequence[float], held: Sequence[Direction] = ()) -> dict[str, Any]:
        """Return flip rates, LPIPS and distance of identity to the source, and changes of the other attribute's logit.

        One of each by strength.
        """
        flips, lpips, identity, drift = list[float](), list[float](), list[float](), list[float]()
        for edited in self._edits(direction, strengths, held).clamp(-1, 1):
            logits = verdicts(self.judge, edited)
            flips.append(float(((logits[:, self.column] > 0) != (self.before > 0)).double().mean()))
            lpips.append(float(self.lpips(self.faces, edited).mean()))
            identity.append(float(self.identity.distances(edited).mean()))
            other = (logits - verdicts(self.judge, self.faces))[:, 1 - self.column]
            drift.append(float(other.abs().mean()))
            if flips[-1] > 0.97:
                break
        at = {f"lpips_at_{rate}": _value_at(flips, lpips, rate / 100) for rate in (70, 85, 95)}
        at["identity_at_95"] = _value_at(flips, identity, 0.95)
        columns = {"flips": flips, "lpips": lpips, "identity": identity, "drift": drift}
        return {"strengths": list(strengths[: len(flips)]), **columns, **at}

    def _edits(self, direction: Direction, strengths: Sequence[float], held: Sequence[Direction]) -> Tensor:
        """Return the faces [K, B, 3, H, W], each moved away from its class by K strengths."""
        edited = torch.empty(len(strengths), *self.faces.shape, dtype=torch.float64)
        for side in (self.before > 0, self.before <= 0):
            if side.any():
                sign = -1 if bool(self.before[side][0] > 0) else 1
                settings = [{direction: sign * strength} for strength in strengths]
                edited[:, side] = self.editor.edits(self.faces[side], settings, keep=held).transpose(0, 1)
        return edited


def _value_at(flips: Sequence[float], values: Sequence[float], rate: float) -> float | None:
    """Return the value at which a rate is first reached, interpolated linearly from (0, 0)."""
    xs, ys = [0.0, *flips], [0.0, *values]
    for (x0, y0), (x1, y1) in pairwise(zip(xs, ys, strict=True)):
        if x0 < rate <= x1:
            return float(np.interp(rate, [x0, x1], [y0, y1]))
    return None


def _line(row: Mapping[str, Any]) -> str:
    points = " ".join(f"{flip:4.0%} /{cost:5.3f} " for flip, cost in zip(row["flips"], row["lpips"], strict=True))
    reached = "".join(f"{row[key]:>7.3f}" if row[key] else f"{'-':>7}" for key in RATES)
    head = f"{row['attribute']:<10}{row['level']:<8}{row['method']:<10}{row['auc']:>6.3f}{row['n']:>6}  "
    return f"{head}{points:<64}{reached}"


if __name__ == "__main__":
    main()
