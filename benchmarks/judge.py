"""A small image classifier that judges age and gender of 64x64 faces, trained on the training faces alone.

    python benchmarks/judge.py --data FOLDER -o judge.pt

FOLDER holds train/, train.csv, test/ and test.csv (`file,age,female`). It is independent of the package: no direction
is fitted through it, and it never sees a latent, so that it can tell whether an edit did what its name promises.
"""

import argparse
import csv
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim_edit import hardware, images

OLD, YOUNG = 55, (18, 32)
ATTRIBUTES = ("old", "female")


class Faces(NamedTuple):
    """Pictures [n, 3, 64, 64] in [-1, 1] and labels [n, 2], old and female; NaN where a face counts as neither."""

    pictures: Tensor
    labels: Tensor


def read_faces(data: Path, part: str, count: int | None = None) -> Faces:
    """Load the faces of "train" or "test"."""
    with (data / f"{part}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:count]
    pictures = torch.stack([images.read(data / part / row["file"], (64, 64)).tensor for row in rows])
    labels = torch.tensor([[_old(int(row["age"])), float(row["female"])] for row in rows])
    return Faces(pictures, labels)


def _old(age: int) -> float:
    return 1.0 if age >= OLD else 0.0 if YOUNG[0] <= age <= YOUNG[1] else float("nan")


def make_judge() -> nn.Module:
    """Build the network: images [n, 3, 64, 64] to logits [n, 2]; 0.4 M parameters."""
    widths = (3, 32, 64, 96, 128)
    blocks: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        blocks += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *blocks,
        nn.Conv2d(128, 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(128, 2),
    )


def train_judge(faces: Faces, epochs: int = 24, batch: int = 64, seed: int = 0) -> nn.Module:
    """Train with flips, shifts, changes of light and noise; AdamW under one cycle of learning rates."""
    torch.manual_seed(seed)
    judge = make_judge().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
    steps = epochs * -(-len(faces.pictures) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(faces.pictures)), batch):
            optimizer.zero_grad()
            loss = _loss(judge(_augment(faces.pictures[rows])), faces.labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return judge.eval().requires_grad_(False)


def _augment(pictures: Tensor) -> Tensor:
    """Flip half of the pictures, shift them by up to 4 pixels, and vary brightness, contrast and noise."""
    n = len(pictures)
    pictures = torch.where(torch.rand(n, 1, 1, 1) < 0.5, pictures.flip(-1), pictures)
    padded = F.pad(pictures, (4, 4, 4, 4), mode="replicate")
    top, left = torch.randint(0, 9, (2,)).tolist()
    pictures = padded[..., top : top + 64, left : left + 64]
    gain, light = 1 + 0.2 * torch.randn(n, 1, 1, 1), 0.15 * torch.randn(n, 3, 1, 1)
    return gain * pictures + light + 0.05 * torch.rand(n, 1, 1, 1) * torch.randn_like(pictures)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    known = ~labels.isnan()
    return F.binary_cross_entropy_with_logits(logits[known], labels[known])


def verdicts(judge: nn.Module, pictures: Tensor) -> Tensor:
    """Return logits [n, 2] of old and female, for pictures and their mirror images together."""
    with torch.inference_mode():
        parts = [judge(part.float()) + judge(part.float().flip(-1)) for part in torch.split(pictures.clamp(-1, 1), 256)]
    return torch.cat(parts) / 2


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the mean of the two recalls, over faces with a label."""
    known = ~labels.isnan()
    predicted, true = logits[known] > 0, labels[known] > 0
    return float((predicted[true].double().mean() + (~predicted[~true]).double().mean()) / 2)


def load_judge(path: Path) -> nn.Module:
    """Load a judge from a file that this program wrote."""
    judge = make_judge()
    judge.load_state_dict(torch.load(path, weights_only=True))
    return judge.eval().requires_grad_(False)


def main() -> None:
    """Train, print the accuracy on the test faces, and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    judge = train_judge(read_faces(arguments.data, "train"))
    test = read_faces(arguments.data, "test")
    logits = verdicts(judge, test.pictures)
    print(hardware())
    for column, name in enumerate(ATTRIBUTES):
        accuracy = balanced_accuracy(logits[:, column], test.labels[:, column])
        print(f"{name}: balanced accuracy {accuracy:.3f} on {len(test.pictures)} test faces")
    torch.save(judge.state_dict(), arguments.output)


if __name__ == "__main__":
    main()
