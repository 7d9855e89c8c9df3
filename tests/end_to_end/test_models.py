"""The benchmark's whole models, small: exported, compiled with the flag and without attention."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from iree_flashattn.bench import architectures, models
from iree_flashattn.bench.models import Model, normal, padded_tokens, tokens

SMALL = (
    Model("bert", partial(architectures.Bert, 2, 48, 3, 100, 32), partial(padded_tokens, 20, 100)),
    Model("gpt2", partial(architectures.Gpt2, 2, 48, 3, 100, 32), partial(tokens, 21, 100)),
    Model("vit", partial(architectures.Vit, 1, 48, 3, 48, 16), normal((3, 48, 48))),
    Model("llama", partial(architectures.LlamaBlock, 64, 4, 2, 96, 32), normal((19, 64))),
    Model("unet", partial(architectures.UNetBlock, 32, 2, 24), normal((32, 6, 6), (7, 24))),
)
SITES = {"bert": 2, "gpt2": 2, "vit": 1, "llama": 1, "unet": 2}


@pytest.mark.parametrize("model", SMALL, ids=lambda m: m.name)
def test_model(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """``measure`` compares with float64 itself, and raises where the flag makes it wrong."""
    monkeypatch.setenv("IREE_FLASHATTN_GATE", "off")
    results = list(models.measure(model, [2], 0.01))
    for result in results:
        assert (result.served, result.sites) == (SITES[model.name], SITES[model.name])
        assert set(result.seconds) == {"torch", "stock", "kernels", "rest"}
        assert set(result.error) == {"torch", "stock", "kernels"}
        assert all(0 <= share < 1 for share in result.share.values())


def test_a_wrong_result_is_an_error() -> None:
    torch.manual_seed(0)
    module = architectures.Vit(1, 48, 3, 48, 16).eval().requires_grad_(False)
    inputs = [torch.randn(2, 3, 48, 48)]
    good = module(*inputs)
    calls = {name: (lambda: good) for name in ("torch", "stock")}
    models.check("vit", module, inputs, calls | {"kernels": lambda: good})
    with pytest.raises(RuntimeError, match="vit: with the flag the result is wrong by"):
        models.check("vit", module, inputs, calls | {"kernels": lambda: good * 1.001})


def test_left_out_attention_still_uses_all_of_q_k_and_v() -> None:
    attend = architectures.Attend()
    attend.left_out = True
    for heads, keys in ((4, 5), (2, 5), (4, 3)):
        q, k, v = (torch.randn(2, h, n, 8) for h, n in ((4, 5), (heads, keys), (heads, keys)))
        k.requires_grad_(True), v.requires_grad_(True)
        out = attend(q, k, v, None, False)
        assert out.shape == q.shape
        out.sum().backward()
        assert np.all(k.grad.numpy() != 0)
        assert np.all(v.grad.numpy() != 0)


def test_names_are_found() -> None:
    assert [m.name for m in models.selected("bert")] == ["BERT-base, 128 tokens"]
    assert len(models.selected("")) == 5
