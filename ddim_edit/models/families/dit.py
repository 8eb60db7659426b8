"""DiT, the class-conditional diffusion transformer (facebook/DiT-XL-2-256).

References:
    Peebles, Xie, "Scalable Diffusion Models with Transformers", ICCV 2023, arXiv:2212.09748.
"""

from __future__ import annotations

from ddim_edit.models.checkpoint import Classes
from ddim_edit.models.families.family import Config, DiffusersFamily, FamilyNotes, call_with_class, count_of
from ddim_edit.models.sizes import SizeRule


def _classes(config: Config) -> Classes:
    count = count_of(config, "num_embeds_ada_norm", 1000)
    # The label after the last class was trained by dropping labels, for classifier-free guidance.
    return Classes(count, none=count)


def _sizes(config: Config) -> SizeRule:
    # Diffusers' network puts the patches of its output together as a square.
    return SizeRule(count_of(config, "patch_size", 2), square=True)


FAMILY = DiffusersFamily(
    name="dit",
    title="DiT (facebook/DiT-XL-2-256)",
    order=44,
    notes=FamilyNotes(
        example="--model facebook/DiT-XL-2-256 --class 207 --guidance-scale 2",
        recognised="`DiTTransformer2DModel`, or `Transformer2DModel` with `ada_norm_zero`",
        read="classes, learned variances, autoencoder",
        assumed="class `num_embeds_ada_norm` is the null class; learned variances are left out",
        trained="256 and 512",
        proven="`DiTPipeline` of diffusers",
    ),
    network="DiTTransformer2DModel",
    unread=r"(^|\.)y_embedder\.embedding_table\.",
    classes=_classes,
    call=call_with_class,
    sizes=_sizes,
)
