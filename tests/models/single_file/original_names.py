"""The tensors of models of diffusers by the names of the code that trained them, as single files have them."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for mine, theirs in table.items():
        name = name.replace(mine, theirs)
    return name


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def ldm_unet(network: Any) -> State:
    """The names of openaimodel.py: blocks are numbered through, each with what it is made of."""
    layers = network.config.layers_per_block
    found = {}
    for name, tensor in network.state_dict().items():
        block = re.fullmatch(
            r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name
        )
        if block is None:
            renamed = _renamed(name, UNET_ENDS)
            if "middle_block" in renamed and ".1." not in renamed[:16]:
                renamed = _renamed(renamed, RESNET)
            found[renamed] = tensor
            continue
        side, level, kind, number, rest = block.groups()
        first = 1 + int(level) * (layers + 1) if side == "down" else int(level) * (layers + 1)
        prefix = f"{'input' if side == 'down' else 'output'}_blocks.{first + int(number)}"
        if kind == "resnets":
            found[f"{prefix}.0.{_renamed(rest, RESNET)}"] = tensor
        elif kind == "attentions":
            found[f"{prefix}.1.{rest}"] = tensor
        elif kind == "downsamplers":
            found[f"input_blocks.{first + layers}.0.{rest.replace('conv', 'op')}"] = tensor
        else:
            place = 2 if "CrossAttn" in network.config.up_block_types[int(level)] else 1
            found[f"output_blocks.{first + layers}.{place}.{rest}"] = tensor
    return found


VAE = {
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_q": "mid.attn_1.q",
    "mid_block.attentions.0.to_k": "mid.attn_1.k",
    "mid_block.attentions.0.to_v": "mid.attn_1.v",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "resnets": "block",
    "down_blocks": "down",
}


def ldm_vae(network: Any) -> State:
    """The names of model.py of taming-transformers: levels of the decoder are numbered from the finest."""
    levels = len(network.config.block_out_channels)
    found = {}
    for name, tensor in network.state_dict().items():
        flipped = re.sub(r"up_blocks\.(\d+)", lambda level: f"up.{levels - 1 - int(level[1])}", name)
        renamed = _renamed(flipped, VAE)
        is_matrix = ".attn_1." in renamed and tensor.dim() == 2
        found[renamed] = tensor[:, :, None, None] if is_matrix else tensor
    return found


def with_text_model(network: Any) -> State:
    """The names of the files of transformers, which are not those of its newest modules."""
    found = {}
    for name, tensor in network.state_dict().items():
        found[name if name.startswith("text_") else f"text_model.{name}"] = tensor
    return found


OPEN_CLIP = {
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_model.encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def open_clip(network: Any) -> State:
    """The names of open_clip, with one matrix of attention for three, and a projection [width, out]."""
    state = with_text_model(network)
    found = {}
    for name, tensor in state.items():
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T
        elif ".q_proj." in name:
            stacked = torch.cat([state[name.replace(".q_proj.", f".{each}_proj.")] for each in "qkv"])
            found_layer = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", name)
            assert found_layer is not None
            layer, end = found_layer.groups()
            found[f"transformer.resblocks.{layer}.attn.in_proj_{end}"] = stacked
        elif not re.search(r"\.[kv]_proj\.", name):
            found[_renamed(name, OPEN_CLIP)] = tensor
    return found


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": tensor.contiguous() for name, tensor in state.items()}


def original_1(pipe: Any) -> State:
    return {
        **prefixed("model.diffusion_model.", ldm_unet(pipe.unet)),
        **prefixed("first_stage_model.", ldm_vae(pipe.vae)),
        **prefixed("cond_stage_model.transformer.", with_text_model(pipe.text_encoder)),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "betas": torch.zeros(1000),
    }


def original_2(pipe: Any) -> State:
    text = open_clip(pipe.text_encoder)
    # Its file has a layer that is not used, and a projection.
    last = {name.replace(".1.", ".23."): 2 * each for name, each in text.items() if ".resblocks.1." in name}
    return {
        **prefixed("model.diffusion_model.", ldm_unet(pipe.unet)),
        **prefixed("first_stage_model.", ldm_vae(pipe.vae)),
        **prefixed("cond_stage_model.model.", {**text, **last, "text_projection": torch.eye(32)}),
    }


def original_xl(pipe: Any) -> State:
    return {
        **prefixed("model.diffusion_model.", ldm_unet(pipe.unet)),
        **prefixed("first_stage_model.", ldm_vae(pipe.vae)),
        **prefixed("conditioner.embedders.0.transformer.", with_text_model(pipe.text_encoder)),
        **prefixed("conditioner.embedders.1.model.", open_clip(pipe.text_encoder_2)),
        "conditioner.embedders.1.model.logit_scale": torch.ones(()),
    }


JOINT = {
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "transformer_blocks": "joint_blocks",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn.to_out.0": "x_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "attn.to_q": "x_block.attn.qkv",
    "attn2.to_q": "x_block.attn2.qkv",
    "attn.add_q_proj": "context_block.attn.qkv",
}
STACKED = {"to_q": ("to_q", "to_k", "to_v"), "add_q_proj": ("add_q_proj", "add_k_proj", "add_v_proj")}
ELSEWHERE = ("to_k.", "to_v.", "add_k_proj.", "add_v_proj.", "proj_mlp.")
"""Layers that are parts of those with to_q and add_q_proj."""


def stacked(state: Mapping[str, Tensor], name: str) -> Tensor:
    """A layer as the original code has it: matrices of attention in one, the shift before the scale."""
    for first, parts in STACKED.items():
        if f".{first}." in name:
            rows = [state[name.replace(first, part)] for part in parts]
            if name.startswith("single_"):
                rows.append(state[name.replace("attn.to_q", "proj_mlp")])
            return torch.cat(rows)
    return state[name]


def flipped(tensor: Tensor) -> Tensor:
    scale, shift = tensor.chunk(2)
    return torch.cat([shift, scale])


def joint_blocks(network: Any) -> State:
    """The names of mmdit.py of Stability AI."""
    state = network.state_dict()
    last = f"transformer_blocks.{network.config.num_layers - 1}.norm1_context"
    found = {}
    for name in state:
        if any(f".{part}" in name for part in ELSEWHERE):
            continue
        tensor = stacked(state, name)
        if name.startswith(("norm_out.linear", last)):
            tensor = flipped(tensor)
        renamed = f"final_layer.linear.{name[9:]}" if name.startswith("proj_out") else name
        for mine, theirs in JOINT.items():
            renamed = re.sub(rf"(?<![\w]){re.escape(mine)}(?![\w])", theirs, renamed, count=1)
        found[renamed] = tensor
    return found


FLUX = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.to_q": "img_attn.qkv",
    "attn.add_q_proj": "txt_attn.qkv",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "attn.to_q": "linear1",
    "proj_out": "linear2",
}


def flux_blocks(network: Any) -> State:
    """The names of model.py of Black Forest Labs."""
    state = network.state_dict()
    found = {}
    for name in state:
        if any(f".{part}" in name for part in ELSEWHERE):
            continue
        tensor = stacked(state, name)
        block = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if block is None:
            tensor = flipped(tensor) if name.startswith("norm_out") else tensor
            renamed = f"final_layer.linear.{name[9:]}" if name.startswith("proj_out") else _renamed(name, FLUX)
            found[renamed] = tensor
            continue
        layer = (SINGLE if block[1] else DOUBLE)[block[3]]
        end = "scale" if layer.endswith("_norm") else block[4]
        found[f"{'single' if block[1] else 'double'}_blocks.{block[2]}.{layer}.{end}"] = tensor
    return found


def texts(pipe: Any) -> State:
    """The names of ComfyUI, which Stability AI has too."""
    found = prefixed("text_encoders.clip_l.transformer.", with_text_model(pipe.text_encoder))
    if hasattr(pipe, "text_encoder_3"):
        found |= prefixed("text_encoders.clip_g.transformer.", with_text_model(pipe.text_encoder_2))
    t5 = getattr(pipe, "text_encoder_3", pipe.text_encoder_2)
    return found if t5 is None else {**found, **prefixed("text_encoders.t5xxl.transformer.", t5_names(t5))}


def t5_names(network: Any) -> State:
    return {name: each for name, each in network.state_dict().items() if "embed_tokens" not in name}


def original_3(pipe: Any) -> State:
    return {
        **prefixed("model.diffusion_model.", joint_blocks(pipe.transformer)),
        **prefixed("first_stage_model.", ldm_vae(pipe.vae)),
        **texts(pipe),
    }


def original_flux(pipe: Any) -> State:
    return {
        **prefixed("model.diffusion_model.", flux_blocks(pipe.transformer)),
        **prefixed("vae.", ldm_vae(pipe.vae)),
        **texts(pipe),
    }
