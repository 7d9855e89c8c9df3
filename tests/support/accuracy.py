"""The error rule: at most twice PyTorch's error in the same type, plus a tiny absolute term.

Errors are measured against float64. PyTorch computes what a user would run: its SDPA.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TINY = {"f32": 2e-6, "f16": 1e-3, "bf16": 8e-3}


def sdpa_error(
    q: NDArray, k: NDArray, v: NDArray, reference: NDArray, element: str, **options
) -> float:
    """Largest error of torch SDPA in ``element``; q, k, v are float arrays holding its values.

    ``options``: scale, is_causal, enable_gqa and attn_mask (an array), as torch takes them.
    """
    import torch

    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[element]
    tensors = [torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(dtype) for x in (q, k, v)]
    mask = options.pop("attn_mask", None)
    if mask is not None:
        mask = torch.from_numpy(np.array(mask))
        options["attn_mask"] = mask if mask.dtype == torch.bool else mask.to(dtype)
    out = torch.nn.functional.scaled_dot_product_attention(*tensors, **options)
    return largest_error(out.float().numpy(), reference)


def largest_error(result: NDArray, reference: NDArray) -> float:
    """NaN where one of the two has NaN and the other has not; equal non-finite values agree."""
    result, reference = np.asarray(result, np.float64), np.asarray(reference, np.float64)
    assert result.shape == reference.shape, (result.shape, reference.shape)
    if not result.size:
        return 0.0
    both_nan = np.isnan(result) & np.isnan(reference)
    with np.errstate(invalid="ignore"):  # the difference of equal infinities
        difference = np.where(both_nan | (result == reference), 0.0, np.abs(result - reference))
    return float(difference.max())


def assert_accurate(
    result: NDArray, reference: NDArray, torch_error: float, element: str, context: str = ""
) -> None:
    error = largest_error(result, reference)
    limit = 2 * torch_error + TINY[element] * max(
        1.0, float(np.nanmax(np.abs(reference), initial=0))
    )
    assert error <= limit, f"{context}: error {error:.3g}, at most {limit:.3g} is allowed"
