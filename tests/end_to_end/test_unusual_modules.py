"""Modules of unusual make: the report counts what there is, and the results are right."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from iree.compiler import ir

from iree_flashattn import oracle
from iree_flashattn.bench import running
from iree_flashattn.choosing import Options
from iree_flashattn.compiling import LOCAL, CompileError, compile_module
from iree_flashattn.rewrite import rewrite_module

UNGATED = {"IREE_FLASHATTN_GATE": "off"}
KIND = "tensor<2x9x16xf32>"
MAPS = ", ".join(
    f"affine_map<(b, m, n, k, s) -> ({dims})>"
    for dims in ("b, m, k", "b, s, k", "b, s, n", "", "b, m, n")
)
CONSTANTS = f"""%scale = arith.constant 0.25 : f32
  %init = tensor.empty() : {KIND}"""


def attention(query: str, result: str, attributes: str = "") -> str:
    return f"""{result} = iree_linalg_ext.attention <indexing_maps = [{MAPS}]> {attributes}
      ins({query}, %k, %v, %scale : {KIND}, {KIND}, {KIND}, f32) outs(%init : {KIND}) {{
    ^bb0(%s: f32): iree_linalg_ext.yield %s : f32 }} -> {KIND}"""


def function(name: str, body: str, more: str = "", keywords: str = "") -> str:
    return f"""
func.func {keywords} @{name}(%q: {KIND}, %k: {KIND}, %v: {KIND}{more}) -> {KIND} {{
  {CONSTANTS}
  {body}
}}
"""


def inputs() -> list[np.ndarray]:
    rng = np.random.default_rng()
    return [rng.standard_normal((2, 9, 16), np.float32) for _ in range(3)]


def repeated(arrays: list[np.ndarray], times: int) -> np.ndarray:
    """Attention whose result is the next query, in float64."""
    q, k, v = (x[:, None] for x in arrays)
    for _ in range(times):
        q = oracle.attention(q, k, v, scale=0.25).out
    return q[:, 0]


@pytest.mark.parametrize("count", [0, 1, 4])
def test_while_loop(count: int, compile_served: Callable) -> None:
    body = f"""%zero = arith.constant 0 : i32
  %one = arith.constant 1 : i32
  %limit = tensor.extract %count[] : tensor<i32>
  %last:2 = scf.while (%x = %q, %i = %zero) : ({KIND}, i32) -> ({KIND}, i32) {{
    %more = arith.cmpi slt, %i, %limit : i32
    scf.condition(%more) %x, %i : {KIND}, i32
  }} do {{
  ^bb0(%x: {KIND}, %i: i32):
    {attention("%x", "%o")}
    %next = arith.addi %i, %one : i32
    scf.yield %o, %next : {KIND}, i32
  }}
  return %last#0 : {KIND}"""
    module = function("attention", body, ", %count: tensor<i32>")
    arrays = inputs()
    loaded = running.load(compile_served(module).vmfb)
    result = running.to_float(loaded(*arrays, np.array(count, np.int32)))
    np.testing.assert_allclose(result, repeated(arrays, count), atol=3e-6)


@pytest.mark.parametrize("taken", [True, False])
def test_branch(taken: bool, compile_served: Callable) -> None:
    body = f"""%yes = tensor.extract %taken[] : tensor<i1>
  %last = scf.if %yes -> {KIND} {{
    {attention("%q", "%o")}
    scf.yield %o : {KIND}
  }} else {{
    scf.yield %q : {KIND}
  }}
  return %last : {KIND}"""
    arrays = inputs()
    loaded = running.load(compile_served(function("attention", body, ", %taken: tensor<i1>")).vmfb)
    result = running.to_float(loaded(*arrays, np.array(taken)))
    np.testing.assert_allclose(result, repeated(arrays, int(taken)), atol=3e-6)


@pytest.mark.parametrize("taken", [True, False])
def test_blocks(taken: bool, compile_served: Callable) -> None:
    """A function of several blocks, as a goto leaves it."""
    body = f"""%yes = tensor.extract %taken[] : tensor<i1>
  cf.cond_br %yes, ^some, ^last(%q : {KIND})
^some:
  {attention("%q", "%o")}
  cf.br ^last(%o : {KIND})
^last(%r: {KIND}):
  {attention("%r", "%p")}
  return %p : {KIND}"""
    arrays = inputs()
    module = function("attention", body, ", %taken: tensor<i1>")
    loaded = running.load(compile_served(module, sites=2).vmfb)
    result = running.to_float(loaded(*arrays, np.array(taken)))
    np.testing.assert_allclose(result, repeated(arrays, 1 + taken), atol=3e-6)


def test_counted_loop(compile_served: Callable) -> None:
    body = f"""%c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c3 = arith.constant 3 : index
  %o = scf.for %i = %c0 to %c3 step %c1 iter_args(%x = %q) -> {KIND} {{
    {attention("%x", "%y")}
    scf.yield %y : {KIND}
  }}
  return %o : {KIND}"""
    arrays = inputs()
    loaded = running.load(compile_served(function("attention", body)).vmfb)
    np.testing.assert_allclose(running.to_float(loaded(*arrays)), repeated(arrays, 3), atol=3e-6)


def test_rewritten_module_is_left_alone() -> None:
    """The pattern over its own result: no site, and not a letter changed."""
    one = function("attention", f"{attention('%q', '%o')}\n  return %o : {KIND}")
    done = compile_module(one, [*LOCAL, "--compile-to=preprocessing"], options=UNGATED)
    assert [site["matched"] for site in done.sites] == [True]
    with ir.Context(), ir.Location.unknown():
        module = ir.Module.parse(done.vmfb.decode())
        before = str(module)
        assert rewrite_module(module, Options(gate=False)).sites == []
        assert str(module) == before
        assert before.count("flow.dispatch ") == 1


def test_module_without_attention() -> None:
    text = f"""
func.func @sum(%q: {KIND}, %k: {KIND}) -> {KIND} {{
  %o = arith.addf %q, %k : {KIND}
  return %o : {KIND}
}}
"""
    ours, stock = (compile_module(text, [*LOCAL, "--compile-to=preprocessing"], plugin=on)
                   for on in (True, False))  # fmt: skip
    assert ours.sites == []
    assert ours.vmfb == stock.vmfb


def test_private_function_called_many_times(compile_served: Callable) -> None:
    """One site, however many calls: the report counts sites of the module's text."""
    calls = 60
    helper = function("helper", f"{attention('%q', '%o')}\n  return %o : {KIND}",
                      keywords="private").replace(") -> " + KIND + " {",
                      ") -> " + KIND + " attributes {noinline} {", 1)  # fmt: skip
    lines = [
        f"%x{i + 1} = func.call @helper(%x{i}, %k, %v) : ({KIND}, {KIND}, {KIND}) -> {KIND}"
        for i in range(calls)
    ]
    body = "\n  ".join(lines).replace("%x0,", "%q,") + f"\n  return %x{calls} : {KIND}"
    arrays = inputs()
    loaded = running.load(compile_served(helper + function("attention", body)).vmfb)
    result = running.to_float(loaded(*arrays))
    np.testing.assert_allclose(result, repeated(arrays, calls), atol=1e-5)


def softmaxes(count: int) -> str:
    """Softmaxes of softmaxes, none of which multiplies anything."""
    lines = [
        f"%x{i + 1} = linalg.softmax dimension({i % 2}) ins(%x{i} : tensor<4x4xf32>)"
        " outs(%e : tensor<4x4xf32>) -> tensor<4x4xf32>"
        for i in range(count)
    ]
    body = "\n  ".join(lines)
    return f"""
func.func @softmaxes(%x0: tensor<4x4xf32>) -> tensor<4x4xf32> {{
  %e = tensor.empty() : tensor<4x4xf32>
  {body}
  return %x{count} : tensor<4x4xf32>
}}
"""


def test_thousands_of_softmaxes_beside_a_site() -> None:
    """They are no candidates, and do not hide what is one."""
    one = function("attention", f"{attention('%q', '%o')}\n  return %o : {KIND}")
    done = compile_module(
        softmaxes(3000) + one, [*LOCAL, "--compile-to=preprocessing"], options=UNGATED
    )
    (site,) = done.sites
    assert site["matched"]
    assert done.vmfb.count(b"linalg.softmax") == 3000


CPU = ["--iree-hal-local-target-device-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=host"]


def on_two_devices() -> str:
    def on(device: str) -> str:
        return f"{{stream.affinity = #hal.device.promise<@{device}>}}"

    body = f"""%first = flow.tensor.transfer %q : {KIND} to #hal.device.promise<@one>
  {attention("%first", "%a", on("one"))}
  %moved = flow.tensor.transfer %a : {KIND} to #hal.device.promise<@two>
  {attention("%moved", "%b", on("two"))}
  return %b : {KIND}"""
    return function("attention", body)


def is_cpu(kernel: str) -> bool:
    return any(name in kernel for name in ("_avx", "_sse2", "_neon"))


def test_sites_on_two_devices_of_one_kind() -> None:
    devices = ["--iree-hal-target-device=one=local", "--iree-hal-target-device=two=local"]
    done = compile_module(on_two_devices(), [*devices, *CPU], options=UNGATED)
    assert [site["matched"] for site in done.sites] == [True, True], done.sites
    assert all(is_cpu(site["kernel"]) for site in done.sites)


def test_sites_on_a_cpu_and_a_vulkan_device() -> None:
    """IREE 3.13 finds no memory that both share, whatever the module computes: its own error."""
    devices = ["--iree-hal-target-device=one=local", "--iree-hal-target-device=two=vulkan"]
    flags = [*devices, *CPU]
    with pytest.raises(CompileError) as stock:
        compile_module(on_two_devices(), flags, plugin=False)
    with pytest.raises(CompileError) as ours:
        compile_module(on_two_devices(), flags, options=UNGATED)
    assert "exit status" not in str(ours.value)  # as a crash without a message would have
    assert first_error(str(ours.value)) == first_error(str(stock.value))
    done = compile_module(on_two_devices(), [*flags, "--compile-to=preprocessing"], options=UNGATED)
    assert [site["matched"] for site in done.sites] == [False, False]
    assert all("CPU and Vulkan devices together" in site["reason"] for site in done.sites)


def first_error(message: str) -> str:
    """The first line's text behind the place, without numbers of values."""
    line = next(text for text in message.splitlines() if "error:" in text)
    return re.sub(r"%\d+", "%", line.split("error:", 1)[1])[:200]
