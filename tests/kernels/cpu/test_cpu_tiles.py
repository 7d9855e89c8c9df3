"""The kernels on tiles take keys in steps inside of blocks, three steps under way at a time:
problems of several blocks, with rising maxima and without, and with cut last steps."""

from __future__ import annotations

import zlib

import cpu_native
import pytest
from cpu_cases import attending, check

from iree_flashattn import operands
from iree_flashattn.problems import Problem, causal

KERNELS = [p for p in attending() if p.values[0].source == "amx.cc" or "double" in p.id]
ONE = {"heads": 1, "element": "bf16"}
PROBLEMS = [
    Problem("blocks", q_len=350, kv_len=1100, dk=64, **ONE),  # short steps
    Problem("wide blocks", q_len=70, kv_len=1300, dk=128, **ONE),  # long ones
    causal(Problem("causal", q_len=600, kv_len=600, dk=128, **ONE)),
    Problem("lse", q_len=100, kv_len=700, dk=80, lse="inf", **ONE),
    Problem("256", q_len=310, kv_len=620, dk=256, **ONE),  # several blocks of rows
    causal(Problem("fill beneath", q_len=400, kv_len=700, dk=64, fill=-3.4e38, **ONE)),
    causal(Problem("fill among", q_len=400, kv_len=700, dk=64, fill=-3.0, **ONE)),
    Problem("spread", q_len=40, kv_len=700, dk=64, scale=2.0, **ONE),  # references are raised
    Problem("wide spread", q_len=40, kv_len=700, dk=64, scale=16.0, **ONE),  # weights underflow
    Problem("negative", q_len=40, kv_len=700, dk=64, scale=-0.125, **ONE),
    Problem("dv", q_len=40, kv_len=700, dk=64, dv=80, **ONE),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
@pytest.mark.parametrize("kernel", KERNELS)
def test_steps_and_blocks(kernel, problem):
    made = operands.make(problem, zlib.crc32(problem.name.encode()))
    made.o.buffer[...] = 77
    cpu_native.run(kernel, made)
    check(made, kernel.name)
