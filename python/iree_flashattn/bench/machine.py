"""What the machine can do, measured beside the kernels: FMA peak and read bandwidth of all workers.

Both run as IREE dispatches on the same device as the attention modules, one workgroup a task, so
that they see the same workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..compiling import LOCAL, compile_module
from ..target import Target, executable_targets, parse_target
from . import running

# Many tasks: workers take several at once, and one that wakes up late must find the rest.
_TASKS = 256
_OPERATIONS = 8e9  # of a call of the FMA probe: long beside the time in which workers wake up
_READ_MEGABYTES = 256
_LAYOUT = (
    "#hal.pipeline.layout<bindings = [#hal.pipeline.binding<storage_buffer, ReadOnly>,"
    " #hal.pipeline.binding<storage_buffer>]>"
)
# A processor that has what the kernels of a family need, and no more.
_PROCESSORS = {"": "host", "avx2": "haswell"}


@dataclass(frozen=True)
class Probe:
    """A call that does nothing but what it measures."""

    call: Callable[[], object]
    amount: float  # operations or bytes a call


@dataclass(frozen=True)
class Machine:
    cpu: str
    features: str
    fma_gflops: float  # f32, all workers
    read_gbps: float  # 1e9 bytes a second, from memory, all workers
    workers: int = 0  # threads that were asked for; 0: one a core
    extension: bool = False  # the runtime extension's kernels
    batch: bool = False  # the calling thread does not preempt workers


@cache
def target_of(cpu: str = "host") -> Target:
    """The executable target of ``--iree-llvmcpu-target-cpu=``."""
    flags = [*LOCAL[:2], f"--iree-llvmcpu-target-cpu={cpu}", "--compile-to=preprocessing"]
    text = compile_module("func.func @f() { return }", flags, plugin=False).vmfb.decode()
    return parse_target(executable_targets(text)[0])


@cache
def fma_probe(family: str = "") -> Probe:
    """f32 multiply-adds in registers, with the vectors of a family of kernels; '': the widest."""
    target = target_of(_PROCESSORS[family])
    lanes = _lanes(target)
    round_of_all = 2 * lanes * _chains(target) * _TASKS
    rounds = round(_OPERATIONS / round_of_all)
    vmfb = compile_module(fma_module(target, lanes, rounds), [], plugin=False).vmfb
    function = running.load(vmfb, "run")
    seed = running.on_device(np.full(lanes, 1e-30, np.float32))
    return Probe(lambda: function(seed), rounds * round_of_all)


@cache
def read_probe() -> Probe:
    """One pass over more memory than any cache holds."""
    target = target_of()
    count = _READ_MEGABYTES * 2**20 // 4
    vmfb = compile_module(read_module(target, _lanes(target), count), [], plugin=False).vmfb
    function = running.load(vmfb, "run")
    # Not zeros: untouched pages of zeros are all one page, in the cache.
    data = running.on_device(np.full(count, 1e-30, np.float32))
    return Probe(lambda: function(data), count * 4)


def measure(seconds: float = 1.0) -> Machine:
    """Best of several runs: peaks are what the machine reaches, not what it reaches on average."""
    target = target_of()
    fma, read = fma_probe(), read_probe()
    times = running.interleaved({"fma": fma.call, "read": read.call}, seconds, 5)
    return Machine(
        _cpu_name(target),
        " ".join(sorted(f for f in target.features if f.startswith(("avx", "amx", "neon", "fma")))),
        fma.amount / min(times["fma"]) / 1e9,
        read.amount / min(times["read"]) / 1e9,
        running.default_workers(),
        running.uses_extension(),
        running.yields_to_workers(),
    )


def _lanes(target: Target) -> int:
    return 16 if "avx512f" in target.features else 8 if "avx2" in target.features else 4


def _chains(target: Target) -> int:
    """Accumulators: enough to hide the latency of two FMA units, and no more than registers."""
    return 12 if target.arch == "x86_64" and "avx512f" not in target.features else 24


def _cpu_name(target: Target) -> str:
    found = target.config.partition('cpu = "')[2].partition('"')[0]
    return found or target.arch


def _module(target: Target, inputs: int, body: str) -> str:
    return f"""
module attributes {{stream.affinity.default = #hal.device.affinity<@device>}} {{
util.global private @device = #hal.device.target<"local", [{target.attribute}]> : !hal.device
hal.executable private @probe {{
  hal.executable.variant public @cpu target({target.attribute}) {{
    hal.executable.export public @probe ordinal(0) layout({_LAYOUT})
        count(%device: !hal.device, %tasks: index) -> (index, index, index) {{
      %one = arith.constant 1 : index
      hal.return %tasks, %one, %one : index, index, index
    }}
    builtin.module {{
      func.func @probe() {{
        {body}
        return
      }}
    }}
  }}
}}
func.func @run(%in: tensor<{inputs}xf32>) -> tensor<{_TASKS * 64}xf32> {{
  %tasks = arith.constant {_TASKS} : index
  %out = flow.dispatch @probe::@cpu::@probe[%tasks](%in)
      : (tensor<{inputs}xf32>) -> tensor<{_TASKS * 64}xf32>
  return %out : tensor<{_TASKS * 64}xf32>
}}
}}
"""


def _bindings(inputs: int) -> str:
    return f"""
        %zero = arith.constant 0 : index
        %one = arith.constant 1 : index
        %task = hal.interface.workgroup.id[0] : index
        %in = hal.interface.binding.subspan layout({_LAYOUT}) binding(0) alignment(64)
            offset(%zero) : memref<{inputs}xf32>
        %out = hal.interface.binding.subspan layout({_LAYOUT}) binding(1) alignment(64)
            offset(%zero) : memref<{_TASKS * 64}xf32>
        %pitch = arith.constant 64 : index
        %at = arith.muli %task, %pitch : index"""


def _loop(lanes: int, count: int, bound: str, step: str, body: str, operands: str) -> str:
    """A loop over ``count`` vector accumulators whose sum is stored for the task."""
    vector = f"vector<{lanes}xf32>"
    chains = range(count)
    start = ", ".join(f"%a{i} = {operands}" for i in chains)
    kinds = ", ".join([vector] * count)
    results = ", ".join(f"%n{i}" for i in chains)
    sums = "\n".join(
        f"        %t{i} = arith.addf {'%r#0' if i == 1 else f'%t{i - 1}'}, %r#{i} : {vector}"
        for i in chains
        if i
    )
    return f"""
        %r:{count} = scf.for %i = %zero to {bound} step {step} iter_args({start}) -> ({kinds}) {{
{body}
          scf.yield {results} : {kinds}
        }}
{sums}
        vector.store %t{count - 1}, %out[%at] : memref<{_TASKS * 64}xf32>, {vector}"""


def fma_module(target: Target, lanes: int, rounds: int) -> str:
    vector = f"vector<{lanes}xf32>"
    chains = _chains(target)
    if "fma" in target.features or target.arch == "aarch64":
        lines = [f"          %n{i} = math.fma %a{i}, %x, %x : {vector}" for i in range(chains)]
    else:
        lines = [
            f"          %m{i} = arith.mulf %a{i}, %x : {vector}\n"
            f"          %n{i} = arith.addf %m{i}, %x : {vector}"
            for i in range(chains)
        ]
    body = "\n".join(lines)
    text = f"""{_bindings(lanes)}
        %rounds = arith.constant {rounds} : index
        %x = vector.load %in[%zero] : memref<{lanes}xf32>, {vector}
{_loop(lanes, chains, "%rounds", "%one", body, "%x")}"""
    return _module(target, lanes, text)


def read_module(target: Target, lanes: int, count: int) -> str:
    """Every task sums its contiguous share of ``count`` floats."""
    vector = f"vector<{lanes}xf32>"
    chains = _chains(target)
    step = lanes * chains
    share = count // _TASKS // step * step
    lines = []
    for i in range(chains):
        lines.append(f"          %o{i} = arith.constant {i * lanes} : index")
        lines.append(f"          %p{i} = arith.addi %from, %o{i} : index")
        lines.append(f"          %x{i} = vector.load %in[%p{i}] : memref<{count}xf32>, {vector}")
        lines.append(f"          %n{i} = arith.addf %a{i}, %x{i} : {vector}")
    body = "          %from = arith.addi %base, %i : index\n" + "\n".join(lines)
    text = f"""{_bindings(count)}
        %share = arith.constant {share} : index
        %step = arith.constant {step} : index
        %base = arith.muli %task, %share : index
        %x = arith.constant dense<0.0> : {vector}
{_loop(lanes, chains, "%share", "%step", body, "%x")}"""
    return _module(target, count, text)
