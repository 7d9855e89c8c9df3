"""Small random transformers models, eager and with SDPA, as exported programs."""

from __future__ import annotations

import torch
import transformers

from .exported import Generator
from .torch_models import export

TEXT = {"vocab_size": 64, "num_hidden_layers": 2}
CONFIGS = {
    "bert": lambda: transformers.BertConfig(
        **TEXT, hidden_size=32, num_attention_heads=4, intermediate_size=64
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=64, n_layer=2, n_embd=32, n_head=4, n_positions=64
    ),
    "llama": lambda: transformers.LlamaConfig(
        **TEXT, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64
    ),
    "gemma2": lambda: transformers.Gemma2Config(
        **TEXT, hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, head_dim=8,
    ),
}  # fmt: skip


class Hidden(torch.nn.Module):
    """The last hidden state of a model, and nothing else."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens, use_cache=False).last_hidden_state


def _of(name: str, implementation: str) -> Generator:
    def make():
        torch.manual_seed(5)
        config = CONFIGS[name]()
        config._attn_implementation = implementation
        model = transformers.AutoModel.from_config(config)
        return export(Hidden(model), [torch.randint(0, 64, (2, 16))], 2, decomposed=True)

    return make


MODELS: dict[str, Generator] = {
    f"{name}_{implementation}": _of(name, implementation)
    for name in CONFIGS
    for implementation in ("eager", "sdpa")
    # transformers has no SDPA for gemma2, and torch.export cannot view gpt2's result
    if (name, implementation) not in (("gemma2", "sdpa"), ("gpt2", "sdpa"))
}
