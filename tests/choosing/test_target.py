"""Device targets read from a module: features, several devices, fallbacks, explicit placement."""

from __future__ import annotations

import pytest
from iree.compiler import ir

from iree_flashattn.target import Devices, enabled_features, executable_targets, parse_target

AVX2 = '#hal.executable.target<"llvm-cpu", "embedded-elf-x86_64", {cpu_features = "+avx2,+fma"}>'
PLAIN = '#hal.executable.target<"llvm-cpu", "embedded-elf-x86_64", {cpu_features = ""}>'
SPIRV = '#hal.executable.target<"vulkan-spirv", "vulkan-spirv-fb", {note = "a>b \\"->"}>'


def test_last_word_on_a_feature_wins() -> None:
    assert enabled_features("+a,+b,-a,+c,-d,+d") == {"b", "c", "d"}


def test_executable_targets_in_order_whatever_their_strings_hold() -> None:
    text = f'#hal.device.target<"local", {{x = affine_map<(d0) -> (d0)>}}, [{SPIRV}, {AVX2}]>'
    assert executable_targets(text) == [SPIRV, AVX2]


def test_cuda_target() -> None:
    target = parse_target(
        '#hal.executable.target<"cuda", "cuda-nvptx-fb", {iree_codegen.target_info ='
        ' #iree_gpu.target<arch = "sm_86", features = "+ptx76", wgp = <compute = fp64>>}>'
    )
    assert (target.backend, target.sm, target.format) == ("cuda", 86, "cuda-nvptx-fb")


def module(devices: str, attributes: str = "", function: str = "", op: str = "") -> ir.Module:
    return ir.Module.parse(
        f"""module {attributes} {{
          {devices}
          util.func public @f(%x: tensor<4xf32>) -> tensor<4xf32> {function} {{
            %y = math.exp %x {op} : tensor<4xf32>
            util.return %y : tensor<4xf32>
          }}
        }}""",
        ir.Context(),
    )


def targets(parsed: ir.Module) -> list[str]:
    found = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        if op.name == "math.exp":
            found.append(op)
        return ir.WalkResult.ADVANCE

    parsed.operation.walk(visit)
    return [target.attribute for target in Devices(parsed).targets_at(found[0])]


def device(name: str, *executable: str) -> str:
    body = f'#hal.device.target<"{name}", [{", ".join(executable)}]> : !hal.device'
    return f"util.global private @{name} = {body}\n"


BOTH = device("a", AVX2) + device("b", PLAIN)
DEFAULT = "attributes {stream.affinity.default = #hal.device.affinity<@b>}"
ON_A = "{stream.affinity = #hal.device.affinity<@a>}"


@pytest.mark.parametrize(
    ("parsed", "expected"),
    [
        (("",), []),
        ((device("a", AVX2),), [AVX2]),
        ((device("a", AVX2, PLAIN),), [AVX2, PLAIN]),
        ((device("a", AVX2) + device("b", AVX2),), [AVX2]),
        # Nothing is placed anywhere: all runs on the default device.
        ((BOTH, DEFAULT), [PLAIN]),
        # Something is placed: an op may be pulled to any device.
        ((BOTH, DEFAULT, "attributes " + ON_A), [AVX2]),
        ((BOTH, DEFAULT, "", ON_A), [AVX2]),
        ((BOTH,), [AVX2, PLAIN]),
        ((device("a", AVX2) + "util.global private @c = #hal.device.fallback<@a> : !hal.device\n",
          "attributes {stream.affinity.default = #hal.device.affinity<@c>}"), [AVX2]),
    ],
)  # fmt: skip
def test_targets_at(parsed: tuple[str, ...], expected: list[str]) -> None:
    assert targets(module(*parsed)) == expected
