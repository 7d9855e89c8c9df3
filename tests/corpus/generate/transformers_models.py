"""Small random transformers models, eager and with SDPA, as exported programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
import transformers

from .exported import Generator
from .torch_models import Called, export

# What makes a model small: set where a configuration has the field.
SMALL = {
    32: """hidden_size d_model n_embd dim embed_dim word_embed_proj_dim projection_dim emb_dim
        decoder_hidden_size""",
    64: """intermediate_size encoder_ffn_dim decoder_ffn_dim d_ff ffn_dim hidden_dim
        moe_intermediate_size vocab_size max_position_embeddings n_positions max_seq_len
        max_source_positions max_target_positions""",
    4: """num_attention_heads n_head num_heads encoder_attention_heads decoder_attention_heads
        n_heads num_experts num_local_experts""",
    1: """num_hidden_layers n_layer encoder_layers decoder_layers num_layers n_layers
        num_encoder_layers num_decoder_layers""",
    8: "head_dim d_kv patch_size sliding_window rotary_dim",
    2: "num_key_value_heads num_experts_per_tok",
}


@dataclass(frozen=True)
class Family:
    """``sites``: attention modules of all layers, counted by hand in a model of this size."""

    sites: int
    config: dict[str, Any] = field(default_factory=dict)
    sdpa: bool = True  # transformers has an SDPA for it, and torch can export that


WAVES = {
    "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2),
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
FAMILIES = {
    # encoders
    "Bert": Family(1), "Roberta": Family(1), "DistilBert": Family(1),
    "Albert": Family(1, {"embedding_size": 16}), "Electra": Family(1, {"embedding_size": 16}),
    "Esm": Family(1), "MPNet": Family(1, sdpa=False), "RoFormer": Family(1, sdpa=False),
    "XLM": Family(1, sdpa=False), "MobileBert": Family(1), "Canine": Family(3, sdpa=False),
    "Data2VecText": Family(1), "Camembert": Family(1), "XLMRoberta": Family(1),
    "MegatronBert": Family(1, sdpa=False),
    "DebertaV2": Family(
        1, {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8,
            "max_relative_positions": 16}, sdpa=False,
    ),
    "ConvBert": Family(1, sdpa=False), "Deberta": Family(
        1, {"relative_attention": True, "pos_att_type": ["c2p", "p2c"],
            "max_relative_positions": 16}, sdpa=False,
    ),
    "ModernBert": Family(
        2, {"num_hidden_layers": 2, "local_attention": 8, "global_attn_every_n_layers": 2}
    ),
    # encoders and decoders
    "T5": Family(3), "LongT5": Family(3, sdpa=False), "Bart": Family(3), "Marian": Family(3),
    "ProphetNet": Family(4, sdpa=False), "Pegasus": Family(3), "MBart": Family(3),
    "BigBirdPegasus": Family(3, {"attention_type": "original_full"}, sdpa=False),
    "Whisper": Family(3, {"num_mel_bins": 20, "max_source_positions": 32}),
    # decoders
    "OpenAIGPT": Family(1, sdpa=False), "GPT2": Family(1, sdpa=False), "GPTNeoX": Family(1),
    "GPTJ": Family(1, {"rotary_dim": 4}), "GPTBigCode": Family(1), "OPT": Family(1),
    "Bloom": Family(1, sdpa=False), "Llama": Family(1), "Mistral": Family(1), "Phi": Family(1),
    "Falcon": Family(1, {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "Qwen3": Family(1), "Gemma": Family(1), "StableLm": Family(1), "Olmo2": Family(1),
    "Gemma2": Family(2, {"num_hidden_layers": 2, "query_pre_attn_scalar": 8}, sdpa=False),
    "Gemma3Text": Family(
        2, {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    ),
    "DiffLlama": Family(2), "Phi3": Family(1), "Cohere": Family(1), "SmolLM3": Family(1),
    "Granite": Family(1), "Starcoder2": Family(1), "Nemotron": Family(1),
    "Glm": Family(1, {"partial_rotary_factor": 0.5}),
    "DeepseekV3": Family(  # without experts, which IREE does not import
        1, {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
            "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
            "first_k_dense_replace": 1},
    ),
    "GPTNeo": Family(
        2, {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 4},
        sdpa=False,
    ),
    "CodeGen": Family(1, {"rotary_dim": 4}, sdpa=False), "Doge": Family(1),
    "BioGpt": Family(1), "CTRL": Family(1, {"dff": 64}, sdpa=False),
    # images and sound
    "ViT": Family(1), "Dinov2": Family(1), "CLIPVision": Family(1), "SiglipVision": Family(2),
    "PixtralVision": Family(1), "Wav2Vec2": Family(1, WAVES), "Hubert": Family(1, WAVES),
    "DeiT": Family(1), "DINOv3ViT": Family(1), "Aimv2Vision": Family(2),
    "Swin": Family(
        2, {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 2,
            "patch_size": 4},
    ),
    "WavLM": Family(1, WAVES, sdpa=False),
}  # fmt: skip


def configured(name: str, implementation: str) -> transformers.PreTrainedConfig:
    kind = getattr(transformers, name + "Config")
    usual = kind().to_dict()
    small = {key: n for n, keys in SMALL.items() for key in keys.split() if key in usual}
    heads = "num_attention_heads" if "num_attention_heads" in usual else "n_head"
    if "num_key_value_heads" in small and usual["num_key_value_heads"] == usual.get(heads):
        small["num_key_value_heads"] = small[heads]
    if "image_size" in usual:
        small["image_size"] = 32
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
    small |= {key: n for key, n in ends.items() if key in usual}
    config = kind(**small | FAMILIES[name].config)
    config._attn_implementation = implementation
    return config


def inputs_of(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    """Two texts, one of them padded; two images; two sounds."""
    config, name = model.config, model.main_input_name
    if name == "pixel_values":
        return {name: torch.randn(2, 3, 32, 32)}
    if name == "input_values":
        return {name: torch.randn(2, 800)}
    if name == "input_features":
        found = {name: torch.randn(2, config.num_mel_bins, 64)}
    else:
        mask = torch.ones(2, 16, dtype=torch.long)
        mask[1, -5:] = 0
        found = {name: torch.randint(3, 64, (2, 16)), "attention_mask": mask}
    if config.is_encoder_decoder:
        found["decoder_input_ids"] = torch.randint(3, 64, (2, 10))
    return found


def hidden(out) -> list[torch.Tensor]:
    pooled = out.get("pooler_output")
    return [out.last_hidden_state] + ([] if pooled is None else [pooled])


def _of(name: str, implementation: str) -> Generator:
    def make():
        torch.manual_seed(5)
        model = transformers.AutoModel.from_config(configured(name, implementation)).eval()
        inputs = inputs_of(model)
        fixed: dict[str, Any] = {"return_dict": True}
        if "use_cache" in signature(model.forward).parameters:
            fixed["use_cache"] = False
        called = Called(model, list(inputs), fixed, hidden)
        return export(called, list(inputs.values()), FAMILIES[name].sites, decomposed=True)

    return make


MODELS: dict[str, Generator] = {
    f"{name}_{implementation}": _of(name, implementation)
    for name, family in FAMILIES.items()
    for implementation in ("eager", "sdpa")
    if family.sdpa or implementation == "eager"
}
