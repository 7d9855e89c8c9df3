"""Small random diffusion models: joint, cross and sliced attention, old and new processors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers.models import attention_processor as processors

from .exported import Generator
from .torch_models import Called, export

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}


@dataclass(frozen=True)
class Model:
    """``sites``: attention modules of all blocks, counted by hand; ``inputs``: shapes."""

    kind: str
    sites: int
    config: dict[str, Any]
    inputs: dict[str, tuple[int, ...]]
    fixed: dict[str, Any] | None = None


UNET = Model(
    "UNet2DConditionModel", 8,  # self and cross attention: going down, in the middle, twice up
    {"sample_size": 8, "block_out_channels": (16,), "layers_per_block": 1, "norm_num_groups": 4,
     "down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",),
     "cross_attention_dim": 16, "attention_head_dim": 8},
    {"sample": (2, 4, 8, 8), "timestep": (2,), "encoder_hidden_states": (2, 7, 16)},
)  # fmt: skip
MODELS_OF_KIND = {
    "vae": Model(
        "AutoencoderKL", 2,
        {"block_out_channels": (16,), "norm_num_groups": 4, "sample_size": 8},
        {"sample": (1, 3, 8, 8)},
    ),
    "dit": Model(
        "DiTTransformer2DModel", 1,
        HEADS | {"num_layers": 1, "sample_size": 8, "norm_num_groups": 4, "num_embeds_ada_norm": 8},
        {"hidden_states": (2, 4, 8, 8), "timestep": (2,)}, {"class_labels": torch.tensor([1, 5])},
    ),
    "pixart": Model(
        "PixArtTransformer2DModel", 2,
        HEADS | {"num_layers": 1, "sample_size": 8, "norm_num_groups": 4, "cross_attention_dim": 16,
                 "use_additional_conditions": False},
        {"hidden_states": (2, 4, 8, 8), "timestep": (2,), "encoder_hidden_states": (2, 7, 16)},
        {"encoder_attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2]),
         "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
    ),
    "sd3": Model(
        "SD3Transformer2DModel", 3,  # joint attention twice, and image attention beside one
        HEADS | {"num_layers": 2, "sample_size": 8, "in_channels": 4, "out_channels": 4,
                 "joint_attention_dim": 16, "caption_projection_dim": 16, "qk_norm": "rms_norm",
                 "pooled_projection_dim": 16, "pos_embed_max_size": 8,
                 "dual_attention_layers": (0,)},
        {"hidden_states": (2, 4, 8, 8), "encoder_hidden_states": (2, 7, 16),
         "pooled_projections": (2, 16), "timestep": (2,)},
    ),
    "flux": Model(
        "FluxTransformer2DModel", 2,  # one block with two streams, one with a single stream
        HEADS | {"num_layers": 1, "num_single_layers": 1, "in_channels": 4,
                 "joint_attention_dim": 16, "pooled_projection_dim": 16,
                 "axes_dims_rope": (2, 2, 4)},
        {"hidden_states": (1, 16, 4), "encoder_hidden_states": (1, 7, 16),
         "pooled_projections": (1, 16), "timestep": (1,), "img_ids": (16, 3), "txt_ids": (7, 3)},
    ),
    "ltx": Model(
        "LTXVideoTransformer3DModel", 2,
        HEADS | {"num_layers": 1, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 16,
                 "caption_channels": 16},
        {"hidden_states": (1, 32, 4), "encoder_hidden_states": (1, 7, 16), "timestep": (1,)},
        {"encoder_attention_mask": torch.tensor([[1] * 5 + [0] * 2]), "num_frames": 2,
         "height": 4, "width": 4},
    ),
    "sana": Model(
        "SanaTransformer2DModel", 1,  # its self attention is linear
        HEADS | {"num_layers": 1, "in_channels": 4, "out_channels": 4, "sample_size": 8,
                 "num_cross_attention_heads": 2, "cross_attention_head_dim": 8,
                 "cross_attention_dim": 16, "caption_channels": 16},
        {"hidden_states": (2, 4, 8, 8), "encoder_hidden_states": (2, 7, 16), "timestep": (2,)},
    ),
    "latte": Model(
        "LatteTransformer3DModel", 3,  # self and cross attention in space, self attention in time
        HEADS | {"num_layers": 1, "sample_size": 8, "patch_size": 2, "in_channels": 4,
                 "cross_attention_dim": 16, "caption_channels": 16, "video_length": 2,
                 "norm_elementwise_affine": False, "norm_type": "ada_norm_single",
                 "num_embeds_ada_norm": 8},
        {"hidden_states": (1, 4, 2, 8, 8), "timestep": (1,), "encoder_hidden_states": (1, 7, 16)},
    ),
    "auraflow": Model(
        "AuraFlowTransformer2DModel", 2,
        HEADS | {"num_mmdit_layers": 1, "num_single_dit_layers": 1, "sample_size": 8,
                 "patch_size": 2, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 16,
                 "caption_projection_dim": 16, "pos_embed_max_size": 64},
        {"hidden_states": (2, 4, 8, 8), "encoder_hidden_states": (2, 7, 16), "timestep": (2,)},
    ),
    "mochi": Model(
        "MochiTransformer3DModel", 3,  # two joint blocks, and one that pools the text
        HEADS | {"num_layers": 2, "pooled_projection_dim": 16, "in_channels": 4, "out_channels": 4,
                 "text_embed_dim": 16, "time_embed_dim": 4, "activation_fn": "swiglu",
                 "max_sequence_length": 7},
        {"hidden_states": (1, 4, 2, 8, 8), "encoder_hidden_states": (1, 7, 16), "timestep": (1,)},
        {"encoder_attention_mask": torch.tensor([[1] * 5 + [0] * 2])},
    ),
    "prior": Model(
        "PriorTransformer", 1,
        HEADS | {"num_layers": 1, "embedding_dim": 16, "num_embeddings": 7,
                 "additional_embeddings": 4},
        {"hidden_states": (2, 16), "timestep": (2,), "proj_embedding": (2, 16),
         "encoder_hidden_states": (2, 7, 16)},
    ),
}  # fmt: skip


def _of(model: Model, processor: Callable | None = None, decomposed: bool = True) -> Generator:
    def make():
        torch.manual_seed(5)
        module = getattr(diffusers, model.kind)(**model.config).eval()
        for parameter in module.parameters():  # some start at zero and hide what is before them
            torch.nn.init.normal_(parameter, 0.0, 0.1)
        if processor is not None:
            module.set_attn_processor(processor())
        inputs = [
            torch.full(shape, 3) if name == "timestep" else torch.randn(shape)
            for name, shape in model.inputs.items()
        ]
        called = Called(
            module, list(model.inputs), {"return_dict": False} | (model.fixed or {}), lambda o: o[0]
        )
        return export(called, inputs, model.sites, decomposed)

    return make


# 2 texts with 8 heads (which the UNet calls attention_head_dim) in two slices of 8: a site each
SLICED = Model(UNET.kind, 16, UNET.config, UNET.inputs)
MODELS: dict[str, Generator] = {
    "unet": _of(UNET),
    "unet_attention_op": _of(UNET, decomposed=False),
    "unet_eager": _of(UNET, processors.AttnProcessor),
    "unet_sliced": _of(SLICED, lambda: processors.SlicedAttnProcessor(8)),
    **{name: _of(model) for name, model in MODELS_OF_KIND.items()},
}
