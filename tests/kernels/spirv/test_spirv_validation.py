"""The Khronos validation layers watch a few dispatches and have nothing to say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import spirv_device
from spirv_cases import attending

HERE = Path(__file__).parent
LAYER = "VK_LAYER_KHRONOS_validation"
MANIFESTS = [
    Path(root) / "vulkan/explicit_layer.d/VkLayer_khronos_validation.json"
    for root in ("/usr/share", "/usr/local/share", "/etc")
]
NAMES = (
    "fa_forward_f32_tile_d64",
    "fa_forward_f16_tile_d64",
    "fa_forward_bf16_lane8_d64",
    "fa_forward_f16_lane8_units_d64",
    "fa_forward_f16_packed_d256",
    "fa_partial_f16_team8_d64",
    "fa_forward_f32_lane8_d64_weights",
    "fa_forward_f16_matrix_d64",
)
PROGRAM = """
import sys
sys.path[:0] = {folders!r}
import spirv_device
from iree_flashattn import catalog, operands, problems
kernel = catalog.find({name!r})
problem = "weights" if "weights" in kernel.features else "tiny_issue"
made = operands.make(problems.find(problem).with_element(kernel.element), 1)
spirv_device.run(kernel, made)
print("ran", made.result().any())
"""


def watched(name: str, **variables: str) -> str:
    environment = os.environ | {"VK_INSTANCE_LAYERS": LAYER} | variables
    program = PROGRAM.format(folders=[str(HERE), str(HERE.parents[1])], name=name)
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "ran True" in result.stdout
    return result.stdout + result.stderr


@pytest.mark.skipif(
    not any(path.is_file() for path in MANIFESTS),
    reason="no validation layers (Debian: vulkan-validationlayers)",
)
@pytest.mark.parametrize("kernel", [p for p in attending() if p.values[0].name in NAMES])
def test_no_complaint(kernel):
    assert not spirv_device.why_not(kernel)
    said = watched(kernel.name)
    assert "Validation" not in said, said
    assert "VUID" not in said, said
