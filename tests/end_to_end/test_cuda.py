"""Models compiled for CUDA with the plugin, on a machine that need not have a GPU.

What they compute is seen by ``tests/kernels/cuda/carried.py``, on a machine that has one.
"""

from __future__ import annotations

import ctypes.util
import subprocess
import sys
from pathlib import Path

import pytest

from iree_flashattn.bench import modules
from iree_flashattn.problems import Problem

FLAGS = ("--iree-hal-target-device=cuda", "--iree-cuda-target=sm_80")
SQUARE = Problem("square", heads=4, q_len=64, kv_len=64, dk=64, element="f16")


def test_weights_are_a_second_result(compile_served) -> None:
    """f32 scores that the program returns too: the kernels of a row of their own."""
    p = Problem("weights", batch=2, heads=4, q_len=50, kv_len=61, dk=40, weights=True)
    done = compile_served(modules.decomposed(p), flags=FLAGS)
    assert done.sites[0]["kernel"] == "fa_forward_f32_sm80_d64_weights"
    assert done.sites[0]["weights"]


def test_wide_heads_with_a_mask_have_a_hopper_kernel(compile_served) -> None:
    p = Problem("wide", heads=4, q_len=64, kv_len=64, dk=200, element="bf16", mask="keep",
                mask_dims="bk")  # fmt: skip
    done = compile_served(modules.fused(p), flags=FLAGS)
    assert done.sites[0]["kernel"] == "fa_forward_bf16_sm90a_d256_general"


@pytest.mark.skipif(bool(ctypes.util.find_library("cuda")), reason="there is a CUDA driver")
def test_without_a_driver_the_runtime_says_so(compile_served, tmp_path: Path) -> None:
    module = tmp_path / "module.vmfb"
    module.write_bytes(compile_served(modules.fused(SQUARE), flags=FLAGS).vmfb)
    run = [str(Path(sys.executable).with_name("iree-run-module")), "--device=cuda"]
    inputs = ["--input=1x4x64x64xf16"] * 3
    done = subprocess.run(
        [*run, f"--module={module}", "--function=attention", *inputs],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "CUDA driver library" in done.stderr
    assert "not available" in done.stderr
