"""Compare linear combinations of latents with chains of slerp and of lerp, for equal weights.

    python benchmarks/combine.py --data FOLDER --groups 16 --counts 3 8

Inverts photographs of a folder with faces64, the default settings and float32, combines groups of them, each group also
in the reverse order, and prints for each way of combining:

- length: of x, in units of that of white noise;
- order, x: root mean square difference between both orders, in units of that of x;
- order, LPIPS: between the images decoded from both orders;
- first, last: LPIPS between the decoded image and the first and the last image of the group;
- noise: robust standard deviation of the diagonal Haar coefficients of the decoded images, in 8-bit levels.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ddim_edit import Editor, Latent, Latents, hardware, load_model
from ddim_edit.latents.interpolation import find_shares
from ddim_edit.latents.latent import combine, interpolate
from ddim_edit.metrics import LPIPS


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of photographs of faces, 64x64 pixels")
    parser.add_argument("--groups", type=int, default=16, help="how many groups are combined")
    parser.add_argument("--counts", type=int, nargs="+", default=[3, 8], help="images in a group")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    editor = Editor(load_model("faces64", dtype="float32"), batch_size=16)
    print(hardware(editor.model.device))
    files = sorted(arguments.data.iterdir())[: max(arguments.groups, *arguments.counts)]
    found = editor.reconstruct(files)
    sources = dict(zip(found.latents, found.originals, strict=True))
    print(
        f"noise of the {len(files)} photographs {noise(found.originals):.2f}, reconstructed {noise(found.decoded):.2f}"
    )
    for count in arguments.counts:
        groups = []
        for first in range(arguments.groups):
            groups.append([found.latents[(first + step) % len(files)] for step in range(count)])
        print(f"\n{count} images, {len(groups)} groups")
        print(f"{'':<28}" + "".join(f"{name:>14}" for name in COLUMNS))
        for name, way in WAYS.items():
            figures = measure(editor, sources, groups, way)
            print(f"{name:<28}" + "".join(f"{figure:>14.3f}" for figure in figures), flush=True)


COLUMNS = ("length", "order, x", "order, LPIPS", "first", "last", "noise")
Way = Callable[[Sequence[Latent]], Latent]


def measure(
    editor: Editor, sources: Mapping[Latent, Tensor], groups: Sequence[Sequence[Latent]], way: Way
) -> list[float]:
    """Return the figures of a way of combining, in the order of `COLUMNS`."""
    lpips = LPIPS()
    forwards = Latents(way(group) for group in groups)
    backwards = Latents(way(group[::-1]) for group in groups)
    images = editor.decode(forwards).clamp(-1, 1)
    # A way that does not depend on the order up to rounding decodes to the same images.
    difference = (forwards.x - backwards.x).square().mean().sqrt() / forwards.x.square().mean().sqrt()
    others = images if difference < 1e-9 else editor.decode(backwards).clamp(-1, 1)
    first = torch.stack([sources[group[0]] for group in groups])
    last = torch.stack([sources[group[-1]] for group in groups])
    figures = [forwards.x.square().mean().sqrt(), difference]
    for one, other in ((images, others), (images, first), (images, last)):
        figures.append(lpips(one, other).mean())
    return [*map(float, figures), noise(images)]


def noise(images: Tensor) -> float:
    """Return the robust deviation of the diagonal Haar band: the median size over that of a unit Gaussian."""
    levels = 127.5 * images.clamp(-1, 1)
    top, bottom = levels[..., ::2, :], levels[..., 1::2, :]
    diagonal = (top[..., ::2] - top[..., 1::2] - bottom[..., ::2] + bottom[..., 1::2]) / 2
    return float((diagonal.abs().flatten(1).median(1).values / 0.6745).mean())


def chain(group: Sequence[Latent], interpolation: str) -> Latent:
    """Return the mixture of one latent after another, whose nominal weights are equal."""
    mixed = group[0]
    for index, latent in enumerate(group[1:], 2):
        mixed = interpolate(mixed, latent, interpolation, 1 / index)
    return mixed


def combine_with_shares(group: Sequence[Latent]) -> Latent:
    """Return the linear combination, of which noises are taken off with weights that sum to 1."""
    made = combine(group)
    shares = find_shares([1.0] * len(group), len(group))
    pairs = []
    for latent, share in zip(group, shares, strict=True):
        pairs += [(seed, share * weight) for seed, weight in latent.recipe.dequantise]
    return replace(made, recipe=replace(made.recipe, dequantise=tuple(pairs)))


WAYS: Mapping[str, Way] = {
    "combine": combine,
    "combine, noises by shares": combine_with_shares,
    "chain of slerp": lambda group: chain(group, "slerp"),
    "chain of lerp": lambda group: chain(group, "lerp"),
}

if __name__ == "__main__":
    main()
