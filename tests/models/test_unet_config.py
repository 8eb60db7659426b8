"""What a UNet config may say, and what is refused by name."""

import inspect

import pytest
from diffusers import UNet2DModel

from ddim_edit.errors import ModelError
from ddim_edit.models.unet.config import UNetConfig

from .twins import SMALL

BAD_VALUES: list[tuple[str, object, str]] = [
    ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"], 'must be "DownBlock2D" or "AttnDownBlock2D"'),
    ("up_block_types", [], "must be a list of at least 1"),
    ("block_out_channels", [8, 0], "must be a positive integer, not 0"),
    ("block_out_channels", [8, 16, 16], "must be as many as down_block_types"),
    ("block_out_channels", [8, 18], "must be multiples of norm_num_groups"),
    ("attn_norm_num_groups", 3, "must end on a multiple of attn_norm_num_groups 3"),
    ("attention_head_dim", 32, "must be at least attention_head_dim 32"),
    ("freq_shift", 4, "must not begin with twice freq_shift 4"),
    ("mid_block_scale_factor", 0, "must be a positive number, not 0"),
    ("class_embed_type", "projection", "must be null or"),
    ("sample_size", [32, 32, 32], "must be a positive integer or a list of 2 or null"),
    ("_class_name", "UNet2DConditionModel", "must be 'UNet2DModel'"),
    ("cross_attention_dim", 768, "is no entry of a UNet2DModel"),
]


@pytest.mark.parametrize(("name", "value", "problem"), BAD_VALUES)
def test_unsupported_entries_are_refused(name: str, value: object, problem: str) -> None:
    with pytest.raises(ModelError, match=r"^config\.json: ") as caught:
        UNetConfig.from_dict(SMALL | {name: value})
    assert name in str(caught.value)
    assert problem in str(caught.value)


def test_inert_entries_are_accepted() -> None:
    idle = {
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.0.4",
        "dropout": 0.1,
        "num_train_timesteps": 1000,
        "sample_size": [64, 32],
    }
    assert UNetConfig.from_dict(SMALL | idle).stride == 2


def test_defaults_are_those_of_diffusers() -> None:
    parameters = inspect.signature(UNet2DModel).parameters.values()
    assert UNetConfig.from_dict({entry.name: entry.default for entry in parameters}) == UNetConfig()
