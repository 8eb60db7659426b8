"""Compare ways to edit by words, on the model that `latent.py` trains, whose two classes stand for two prompts.

    python benchmarks/words.py --data FOLDER --labels CSV --column female --autoencoder VAE --save MODEL

Held-out pictures are inverted under their own class, and every x_T is decoded towards the other one. Columns are means
of LPIPS over all pictures: to the plain decode of the same x_T ("source"), and to its decodes under the other class
without guidance ("other") and with guidance of scale 3 ("other, 3"). A way is better if it comes as near to one of
these with less change. --sheet draws some of them.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from latent import NONE, load_trained, parse_arguments
from torch import Tensor, nn

from ddim_edit import Condition, Editor, InversionConfig, Latents, WordDirection, hardware, images, metrics
from ddim_edit.models.checkpoint import Classes
from ddim_edit.models.conditioning import ClassLabels, Conditioner

STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0)
CONFIG = InversionConfig(steps=20, exact=True)
GUIDANCE = (1.0, 1.5, 2.0, 3.0)
SHOWN = 8


def main() -> None:
    """Print the table."""
    arguments = parse_arguments(__doc__)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        editor, pictures, labels = load_trained(arguments, arguments.save or Path(scratch))
        sources = [editor.invert(pictures[labels == own], CONFIG, condition=Condition(label=own)) for own in (0, 1)]
        source = torch.cat([editor.decode(each) for each in sources])
        ends = [source, *(_decode_under_other(editor, sources, scale) for scale in (1.0, 3.0))]
        lpips = metrics.LPIPS()
        print(f"{hardware()}\n{len(source)} pictures\n{'':<36}strength  source   other  other, 3")
        shown = {"source": source}
        for way, strength, edited in _ways(editor, sources):
            to_source, to_other, to_guided = (float(lpips(end, edited).mean()) for end in ends)
            print(f"{way:<36}{strength:>8g}{to_source:>8.4f}{to_other:>8.4f}{to_guided:>10.4f}", flush=True)
            shown[f"{way} {strength:g}"] = edited
        if arguments.sheet:
            _draw(arguments.sheet, shown)


def _ways(editor: Editor, sources: list[Latents]) -> Iterator[tuple[str, float, Tensor]]:
    """Yield the name of a way, a strength, and the images [B, 3, H, W]."""
    for scale in GUIDANCE:
        yield "other class, guidance scale", scale, _decode_under_other(editor, sources, scale)
    for strength in STRENGTHS:
        yield "class embedding", strength, _decode_embedded(editor, sources, strength)
    for name, mask, warm_up in (
        ("guidance", 0.0, 0.0),
        ("guidance, mask 0.5", 0.5, 0.0),
        ("guidance, mask 0.8", 0.8, 0.0),
        ("guidance, warm-up 0.2", 0.0, 0.2),
        ("guidance, warm-up 0.4", 0.0, 0.4),
        ("guidance, mask 0.5, warm-up 0.2", 0.5, 0.2),
    ):
        for strength in STRENGTHS:
            words = [WordDirection(1 - own, own, mask_quantile=mask, warm_up=warm_up) for own in (0, 1)]
            yield name, strength, _edit(editor, sources, words, strength)
    for strength in STRENGTHS:
        words = [WordDirection(1 - own) for own in (0, 1)]
        yield "guidance from no class", strength, _edit(editor, sources, words, strength)


def _edit(editor: Editor, sources: list[Latents], words: list[WordDirection], strength: float) -> Tensor:
    return torch.cat([editor.edit(each, {to: strength}) for each, to in zip(sources, words, strict=True)])


def _decode_under_other(editor: Editor, sources: list[Latents], scale: float) -> Tensor:
    decoded: list[Tensor] = []
    for own, latents in enumerate(sources):
        condition = Condition(label=1 - own, guidance_scale=scale)
        decoded.append(editor.decode([latent.with_condition(condition) for latent in latents]))
    return torch.cat(decoded)


def _decode_embedded(editor: Editor, sources: list[Latents], strength: float) -> Tensor:
    """Decode under classes whose embeddings are on the line from a picture's own class to the other one."""
    conditioner = editor.model.conditioner
    assert isinstance(conditioner, Conditioner)
    network: Any = conditioner.network.network
    table = network.class_embedding
    assert isinstance(table, nn.Embedding)
    weight = table.weight.data
    own = weight[:2]
    table.weight = nn.Parameter(torch.cat([weight, own + strength * (own.flip(0) - own)]))
    encoder = ClassLabels(editor.model.name, Classes(NONE + 3, none=NONE))
    model = replace(editor.model, conditioner=replace(conditioner, encoder=encoder))
    decoded: list[Tensor] = []
    for label, latents in enumerate(sources):
        condition = Condition(label=NONE + 1 + label)
        decoded.append(Editor(model).decode([latent.with_condition(condition) for latent in latents]))
    table.weight = nn.Parameter(weight)
    return torch.cat(decoded)


def _draw(path: Path, shown: dict[str, Tensor]) -> None:
    rows = {name: edited for name, edited in shown.items() if name in SHEET}
    picked = torch.linspace(0, len(shown["source"]) - 1, SHOWN).long()
    drawn = [images.enlarge(images.to_uint8(edited[picked]), 2) for edited in rows.values()]
    images.write(path, images.labelled(drawn, [""] * SHOWN, list(rows)))


SHEET = (
    "source",
    "other class, guidance scale 1",
    "other class, guidance scale 3",
    "class embedding 2",
    "guidance 0.5",
    "guidance 2",
    "guidance, mask 0.5 2",
    "guidance, mask 0.8 3",
    "guidance, warm-up 0.4 2",
    "guidance from no class 2",
)
"""What --sheet draws."""


if __name__ == "__main__":
    main()
