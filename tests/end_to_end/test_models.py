"""The benchmark's whole models, small: exported, compiled with the flag, and run."""

from __future__ import annotations

from functools import partial

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
        assert set(result.seconds) == {"torch", "stock", "kernels", "twice"}
        assert set(result.error) == {"torch", "stock", "kernels"}
        assert all(0 <= share <= 1 for share in result.share.values())


def test_a_wrong_result_is_an_error() -> None:
    torch.manual_seed(0)
    module = architectures.Vit(1, 48, 3, 48, 16).eval().requires_grad_(False)
    inputs = [torch.randn(2, 3, 48, 48)]
    good = module(*inputs)
    calls = {name: (lambda: good) for name in ("torch", "stock")}
    models.check("vit", module, inputs, calls | {"kernels": lambda: good})
    with pytest.raises(RuntimeError, match="vit: with the flag the result is wrong by"):
        models.check("vit", module, inputs, calls | {"kernels": lambda: good * 1.001})


def test_attention_twice() -> None:
    attend = architectures.Attend()
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 3, 8), torch.randn(2, 2, 3, 8)
    once = attend(q, k, v, None, False)
    expected = attend(once, k, v, None, False)
    module = torch.nn.Sequential(attend)
    models.set_twice(module, True)
    torch.testing.assert_close(attend(q, k, v, None, False), expected)
    models.set_twice(module, False)
    torch.testing.assert_close(attend(q, k, v, None, False), once)


def test_shares() -> None:
    """Of 10 with the flag 2 are attention; stock takes 40, of which the same 8 are not."""
    assert models.shares(1.2, 4.0) == pytest.approx({"kernels": 0.2, "stock": 0.8})
    assert models.shares(0.99, 2.0) == {"kernels": 0.0, "stock": 0.5}  # noise


def test_names_are_found() -> None:
    assert [m.name for m in models.selected("bert")] == ["BERT-base, 128 tokens"]
    assert len(models.selected("")) == 5
