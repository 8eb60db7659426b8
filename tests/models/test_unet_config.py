"""What a UNet config may say, and what is refused by name."""

import inspect

import pytest
from diffusers import UNet2DModel

from ddim_edit.errors import ModelError
from ddim_edit.models.unet.config import UNetConfig

from .twins import SMALL

BAD_VALUES: list[tuple[str, object]] = [
    ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"]),
    ("down_block_types", "DownBlock2D"),
    ("up_block_types", ["UpBlock2D", "CrossAttnUpBlock2D"]),
    ("up_block_types", []),
    ("mid_block_type", "UNetMidBlock2DCrossAttn"),
    ("block_out_channels", [8, "16"]),
    ("block_out_channels", [8, 0]),
    ("block_out_channels", [8, 16, 16]),
    ("block_out_channels", [8, 18]),
    ("in_channels", 0),
    ("out_channels", True),
    ("layers_per_block", [1, 2]),
    ("norm_num_groups", None),
    ("attn_norm_num_groups", 3),
    ("attention_head_dim", 32),
    ("attention_head_dim", -1),
    ("norm_eps", "1e-6"),
    ("mid_block_scale_factor", 0),
    ("freq_shift", None),
    ("freq_shift", 4),
    ("time_embedding_type", "learned"),
    ("time_embedding_dim", 0.5),
    ("downsample_padding", 2),
    ("downsample_type", "fir"),
    ("upsample_type", None),
    ("act_fn", "elu"),
    ("resnet_time_scale_shift", "spatial"),
    ("class_embed_type", "projection"),
    ("num_class_embeds", 0),
    ("center_input_sample", "no"),
    ("sample_size", [32, 32, 32]),
    ("dropout", "none"),
    ("_class_name", "UNet2DConditionModel"),
    ("cross_attention_dim", 768),
    ("encoder_hid_dim", None),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_what_it_cannot_run_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"'{name}'"):
        UNetConfig.from_dict(SMALL | {name: value})


def test_entries_that_change_nothing_are_fine() -> None:
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
