"""Options, faults and placement: what a user sees when something is not as usual."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from iree_flashattn import oracle, resources
from iree_flashattn.bench import modules, running
from iree_flashattn.compiling import LOCAL, CompileError, compile_module, environment
from iree_flashattn.problems import Problem

PROBLEM = Problem("attention", heads=4, q_len=130, kv_len=70, dk=32)
UNGATED = {"IREE_FLASHATTN_GATE": "off"}
MATMUL = """
func.func @matmul(%a: tensor<8x8xf32>, %b: tensor<8x8xf32>) -> tensor<8x8xf32> {
  %zero = arith.constant 0.0 : f32
  %init = tensor.empty() : tensor<8x8xf32>
  %fill = linalg.fill ins(%zero : f32) outs(%init : tensor<8x8xf32>) -> tensor<8x8xf32>
  %c = linalg.matmul ins(%a, %b : tensor<8x8xf32>, tensor<8x8xf32>)
      outs(%fill : tensor<8x8xf32>) -> tensor<8x8xf32>
  return %c : tensor<8x8xf32>
}
"""
MAPS = ", ".join(
    f"affine_map<(b, m, n, k, s) -> ({dims})>"
    for dims in ("b, m, k", "b, s, k", "b, s, n", "", "b, m, n")
)


def attention_op(q: str, k: str, v: str, out: str, init: str = "%init", result: str = "%o") -> str:
    return f"""{result} = iree_linalg_ext.attention <indexing_maps = [{MAPS}]>
      ins(%q, %k, %v, %scale : tensor<{q}>, tensor<{k}>, tensor<{v}>, f32)
      outs({init} : tensor<{out}>) {{ ^bb0(%s: f32): iree_linalg_ext.yield %s : f32 }}
      -> tensor<{out}>"""


DYNAMIC = f"""
func.func @attention(%q: tensor<?x?x16xf32>, %k: tensor<?x?x16xf32>, %v: tensor<?x?x8xf32>)
    -> tensor<?x?x8xf32> {{
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %scale = arith.constant 0.25 : f32
  %b = tensor.dim %q, %zero : tensor<?x?x16xf32>
  %m = tensor.dim %q, %one : tensor<?x?x16xf32>
  %init = tensor.empty(%b, %m) : tensor<?x?x8xf32>
  {attention_op("?x?x16xf32", "?x?x16xf32", "?x?x8xf32", "?x?x8xf32")}
  return %o : tensor<?x?x8xf32>
}}
"""


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng().standard_normal(shape, np.float32)


def inputs(p: Problem = PROBLEM) -> list[np.ndarray]:
    shape = (p.batch, p.kv_heads, p.kv_len)
    return [random(p.batch, p.heads, p.q_len, p.dk), random(*shape, p.dk), random(*shape, p.dv)]


def test_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    source = modules.fused(PROBLEM) + modules.fused(
        Problem("wide", q_len=4, kv_len=4, dk=2048), "wide"
    )
    compile_module(source, options={"IREE_FLASHATTN_REPORT": str(path)})
    served, refused = json.loads(path.read_text())["sites"]
    assert served["matched"] is True
    assert served["kernel"].startswith("fa_forward_f32_")
    assert served["location"].endswith(":13:8")
    shape = ("batch", "heads", "kv_heads", "q_len", "kv_len", "dk", "dv", "dtype", "mask")
    assert [served[name] for name in shape] == [1, 4, 4, 130, 70, 32, 32, "f32", "none"]
    assert refused["matched"] is False
    assert refused["kernel"] == ""
    assert "up to 1024, the site has 2048" in refused["reason"]


def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "no such folder" / "report.json"
    with pytest.raises(CompileError) as error:
        compile_module(modules.fused(PROBLEM), options={"IREE_FLASHATTN_REPORT": str(path)})
    assert str(path) in str(error.value)
    assert "No such file or directory" in str(error.value)
    assert "Traceback" not in str(error.value)


def test_strict(tmp_path: Path) -> None:
    source = modules.fused(Problem("wide", q_len=4, kv_len=4, dk=2048))
    compile_module(source)
    with pytest.raises(CompileError) as error:
        compile_module(source, options={"IREE_FLASHATTN_STRICT": "1"})
    assert "1 of 1 attention sites are not served" in str(error.value)
    assert "the site has 2048" in str(error.value)
    assert compile_module(modules.fused(PROBLEM), options={"IREE_FLASHATTN_STRICT": "1"}).vmfb


def test_option_without_meaning() -> None:
    with pytest.raises(CompileError, match="IREE_FLASHATTN_STRICT='yes' is not one of 0, 1"):
        compile_module(modules.fused(PROBLEM), options={"IREE_FLASHATTN_STRICT": "yes"})


@pytest.mark.parametrize("spelling", [modules.fused, modules.decomposed])
def test_gate(spelling: Callable[[Problem], str]) -> None:
    source = spelling(Problem("tiny", batch=10, heads=8, q_len=2, kv_len=2, dk=8))
    (site,) = compile_module(source).sites
    assert (site["matched"], site["rule"]) == (False, "choose.gate")
    (site,) = compile_module(source, options=UNGATED).sites
    assert site["matched"]


def test_gate_asks_for_the_form_that_a_declined_site_stays_in() -> None:
    """Many tiny heads are faster spelled out, and slower as the fused op."""
    problem = Problem("tiny", batch=12, heads=8, q_len=16, kv_len=16, dk=64)
    (fused,) = compile_module(modules.fused(problem)).sites
    (spelled,) = compile_module(modules.decomposed(problem)).sites
    assert (fused["matched"], spelled["matched"]) == (True, False)


def test_malformed_module_is_the_compilers_error() -> None:
    with pytest.raises(CompileError, match=r"custom op 'tensor.nonsense' is unknown"):
        compile_module("func.func @f() { tensor.nonsense }")


def test_module_without_attention_is_the_same_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "matmul.mlir"  # its name is in the module
    path.write_text(MATMUL)
    served = compile_module(path)
    assert served.sites == []
    assert served.vmfb == compile_module(path, plugin=False).vmfb


@pytest.mark.parametrize(("cpu", "most"), [("znver4", 300_000), ("generic", 500_000)])
def test_growth_of_the_module(cpu: str, most: int) -> None:
    """However many sites: the kernels are in it once; a generic module has those of three
    instruction sets, a target with AVX-512 one."""
    many = "".join(modules.fused(PROBLEM, f"attention{i}") for i in range(4))
    flags = [*LOCAL[:2], f"--iree-llvmcpu-target-cpu={cpu}"]
    stock = compile_module(many, flags, plugin=False)
    served = compile_module(many, flags)
    assert sum(site["matched"] for site in served.sites) == 4
    assert len(served.vmfb) - len(stock.vmfb) <= most


def test_run_time_sizes(compile_served: Callable) -> None:
    function = running.load(compile_served(DYNAMIC).vmfb)
    for batch, rows, keys in ((1, 1, 1), (2, 40, 17), (3, 5, 300), (2, 5, 0), (2, 0, 7), (0, 5, 7)):
        q, k, v = random(batch, rows, 16), random(batch, keys, 16), random(batch, keys, 8)
        expected = oracle.attention(q[:, None], k[:, None], v[:, None], scale=0.25).out[:, 0]
        np.testing.assert_allclose(running.to_float(function(q, k, v)), expected, atol=3e-6)


@pytest.mark.parametrize(
    ("shapes", "operand"),
    [
        (((2, 5, 16), (2, 7, 16), (2, 3, 8)), "V"),
        (((2, 5, 16), (1, 7, 16), (2, 7, 8)), "K"),
    ],
)
def test_run_time_shape_that_breaks_an_assumption(
    compile_served: Callable, shapes: tuple, operand: str
) -> None:
    function = running.load(compile_served(DYNAMIC).vmfb)
    with pytest.raises(RuntimeError, match=f"iree-flashattn: ({operand} is smaller|sizes that)"):
        function(*(random(*shape) for shape in shapes))


def test_sites_in_regions_and_private_functions(compile_served: Callable) -> None:
    kind = "2x9x16xf32"
    source = f"""
func.func private @helper(%q: tensor<{kind}>, %k: tensor<{kind}>, %v: tensor<{kind}>)
    -> tensor<{kind}> attributes {{noinline}} {{
  %scale = arith.constant 0.25 : f32
  %init = tensor.empty() : tensor<{kind}>
  {attention_op(kind, kind, kind, kind)}
  return %o : tensor<{kind}>
}}
func.func @attention(%q: tensor<{kind}>, %k: tensor<{kind}>, %v: tensor<{kind}>,
    %count: tensor<i32>) -> tensor<{kind}> {{
  %scale = arith.constant 0.25 : f32
  %zero = arith.constant 0 : i32
  %one = arith.constant 1 : i32
  %first = func.call @helper(%q, %k, %v)
      : (tensor<{kind}>, tensor<{kind}>, tensor<{kind}>) -> tensor<{kind}>
  %second = func.call @helper(%first, %k, %v)
      : (tensor<{kind}>, tensor<{kind}>, tensor<{kind}>) -> tensor<{kind}>
  %n = tensor.extract %count[] : tensor<i32>
  %more = arith.cmpi sgt, %n, %zero : i32
  %result = scf.if %more -> tensor<{kind}> {{
    %init = tensor.empty() : tensor<{kind}>
    {attention_op(kind, kind, kind, kind).replace("ins(%q", "ins(%second")}
    scf.yield %o : tensor<{kind}>
  }} else {{
    scf.yield %second : tensor<{kind}>
  }}
  return %result : tensor<{kind}>
}}
"""
    function = running.load(compile_served(source, sites=2).vmfb)
    q, k, v = (random(2, 9, 16) for _ in range(3))
    for count in (0, 1):
        expected = q
        for _ in range(2 + count):
            parts = (x[:, None] for x in (expected, k, v))
            expected = oracle.attention(*parts, scale=0.25).out[:, 0]
        result = running.to_float(function(q, k, v, np.array(count, np.int32)))
        np.testing.assert_allclose(result, expected, atol=3e-6)


def test_attention_of_attention(compile_served: Callable) -> None:
    """A site whose query is another site's result, straight away."""
    kind = "2x9x16xf32"
    first = attention_op(kind, kind, kind, kind, result="%first")
    second = attention_op(kind, kind, kind, kind).replace("ins(%q", "ins(%first")
    source = f"""
func.func @attention(%q: tensor<{kind}>, %k: tensor<{kind}>, %v: tensor<{kind}>)
    -> tensor<{kind}> {{
  %scale = arith.constant 0.25 : f32
  %init = tensor.empty() : tensor<{kind}>
  {first}
  {second}
  return %o : tensor<{kind}>
}}
"""
    done = compile_served(source, sites=2, flags=[*LOCAL, "--compile-to=preprocessing"])
    assert b"iree_linalg_ext.attention" not in done.vmfb
    function = running.load(compile_served(source, sites=2).vmfb)
    q, k, v = (random(2, 9, 16) for _ in range(3))
    expected = q
    for _ in range(2):
        parts = (x[:, None] for x in (expected, k, v))
        expected = oracle.attention(*parts, scale=0.25).out[:, 0]
    np.testing.assert_allclose(running.to_float(function(q, k, v)), expected, atol=3e-6)


def run_module(vmfb: Path, arguments: list[np.ndarray], *flags: str) -> np.ndarray:
    """iree-run-module in a process of its own. Raises RuntimeError with its error."""
    folder = vmfb.parent
    command = [find_runner(), f"--module={vmfb}", "--function=attention", *flags]
    for i, array in enumerate(arguments):
        np.save(folder / f"in{i}.npy", array)
        command.append(f"--input=@{folder / f'in{i}.npy'}")
    out = folder / "out.npy"
    result = subprocess.run([*command, f"--output=@{out}"], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return np.load(out)


def find_runner() -> str:
    import iree._runtime_libs

    return str(Path(iree._runtime_libs.__file__).parent / "iree-run-module")


@pytest.mark.parametrize(
    "problem",
    [
        PROBLEM,
        Problem("decode", heads=2, q_len=1, kv_len=2100, dk=64),
        Problem("many", batch=3, heads=5, q_len=300, kv_len=40, dk=16),
    ],
    ids=lambda p: p.name,
)
def test_same_bits_for_any_number_of_workers(
    problem: Problem, compile_served: Callable, tmp_path: Path
) -> None:
    vmfb = tmp_path / "module.vmfb"
    vmfb.write_bytes(compile_served(modules.fused(problem)).vmfb)
    arguments = inputs(problem)
    results = [
        run_module(vmfb, arguments, "--device=local-task", f"--task_topology_group_count={count}")
        for count in (1, 2, 8)
    ]
    results.append(run_module(vmfb, arguments, "--device=local-sync"))
    expected = oracle.attention(*arguments, scale=problem.effective_scale).out
    np.testing.assert_allclose(results[0], expected, atol=3e-6)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_kernels_from_the_runtime_extension(compile_served: Callable, tmp_path: Path) -> None:
    vmfb = tmp_path / "module.vmfb"
    done = compile_served(modules.fused(PROBLEM), options={"IREE_FLASHATTN_CPU_LINK": "plugin"})
    vmfb.write_bytes(done.vmfb)
    assert len(done.vmfb) < len(compile_served(modules.fused(PROBLEM)).vmfb) / 2
    arguments = inputs()
    with pytest.raises(RuntimeError, match="NOT_FOUND; no executable loader"):
        run_module(vmfb, arguments, "--device=local-task")
    plugin = resources.native_dir() / "lib" / "libiree_flashattn_runtime.so"
    result = run_module(vmfb, arguments, "--device=local-task", f"--executable_plugin={plugin}")
    expected = oracle.attention(*arguments, scale=PROBLEM.effective_scale).out
    np.testing.assert_allclose(result, expected, atol=3e-6)


def test_another_compiler_phase_leaves_dispatches_alone(compile_served: Callable) -> None:
    """Compiling on from a module that was substituted already: nothing is left to match."""
    flags = [*LOCAL, "--compile-to=preprocessing"]
    first = compile_served(modules.fused(PROBLEM), flags=flags).vmfb
    again = compile_module(first, ["--compile-from=preprocessing"])
    assert again.sites == []
    result = running.load(again.vmfb)(*(arguments := inputs()))
    expected = oracle.attention(*arguments, scale=PROBLEM.effective_scale).out
    np.testing.assert_allclose(running.to_float(result), expected, atol=3e-6)


def test_environment_of_a_compile_does_not_leak() -> None:
    import os

    before = dict(os.environ)
    environment(True)
    assert dict(os.environ) == before


TWO_DEVICES = [
    "--iree-hal-target-device=local",
    "--iree-hal-target-device=vulkan",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-target-cpu=host",
]


def test_default_device_of_two() -> None:
    """Nothing is placed, so everything runs on the first device and its kernel is enough."""
    (site,) = compile_module(modules.fused(PROBLEM), TWO_DEVICES, options=UNGATED).sites
    assert site["matched"]
    assert "_avx" in site["kernel"] or "_neon" in site["kernel"] or "_sse2" in site["kernel"]


def test_devices_of_different_kinds() -> None:
    """A device that is a CPU or a Vulkan device: declined, and the site keeps its stock code."""
    flags = [
        "--iree-hal-target-device=local,vulkan",
        *TWO_DEVICES[2:],
        "--compile-to=preprocessing",
    ]
    done = compile_module(modules.fused(PROBLEM), flags, options=UNGATED)
    (site,) = done.sites
    assert (site["matched"], site["rule"]) == (False, "target")
    assert "llvm-cpu" in site["subject"]
    assert "vulkan-spirv" in site["subject"]
    assert b"iree_linalg_ext.attention" in done.vmfb
