"""What the pattern adds to a compilation: processor seconds in each stage, over many layers.

    python benchmarks/compile_time.py                       # 12, 48 and 192 layers, all variants
    python benchmarks/compile_time.py --layers 48 --variant causal --profile

Each layer is a transformer's, written out op by op as front ends do (about 105 operations): a
normalisation, projections, heads split and transposed, scores, mask, softmax, values, and an MLP.
The module is taken to the end of the preprocessing phase by the stock compiler; then the stages of
the pattern are timed in this process, as in the child process of iree-compile.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from iree.compiler import ir

from iree_flashattn import bridge, rewrite
from iree_flashattn.choosing import Options
from iree_flashattn.compiling import LOCAL, compile_module
from iree_flashattn.raising import raise_sites
from iree_flashattn.raising.index import Index

BATCH, HEADS, DIM, ROWS = 2, 4, 64, 128
WIDTH, INNER = HEADS * DIM, 4 * HEADS * DIM
VARIANTS = ("plain", "causal", "padding", "dynamic")
BUDGET = (0.3, 2e-5)  # seconds, and seconds for each operation: 2 ms per 100


class Writer:
    """Text of one function over tensors of [BATCH, rows, ...]; rows may be known at run time."""

    def __init__(self, dynamic: bool) -> None:
        self.rows = "?" if dynamic else str(ROWS)
        self.lines: list[str] = []
        self.count = 0

    def op(self, text: str) -> str:
        self.count += 1
        self.lines.append(f"  %{self.count} = {text}")
        return f"%{self.count}"

    def kind(self, dims: str, element: str = "f32") -> str:
        """A type from a description such as "b s w": batch, rows, width."""
        names = {"b": BATCH, "s": self.rows, "t": self.rows, "h": HEADS, "d": DIM, "w": WIDTH,
                 "i": INNER, "g": BATCH * HEADS}  # fmt: skip
        return "tensor<" + "x".join([*(str(names[d]) for d in dims.split()), element]) + ">"

    def empty(self, dims: str, element: str = "f32") -> str:
        unknown = [d for d in dims.split() if d in "st" and self.rows == "?"]
        return self.op(f"tensor.empty({', '.join('%n' for _ in unknown)})"
                       f" : {self.kind(dims, element)}")  # fmt: skip

    def filled(self, dims: str, value: str) -> str:
        kind, empty = self.kind(dims), self.empty(dims)
        return self.op(f"linalg.fill ins({value} : f32) outs({empty} : {kind}) -> {kind}")

    def transposed(self, x: str, before: str, after: str) -> str:
        """The second and the third dim exchanged."""
        kinds = self.kind(before), self.kind(after)
        return self.op(
            f"linalg.transpose ins({x} : {kinds[0]}) outs({self.empty(after)} : {kinds[1]})"
            " permutation = [0, 2, 1, 3]"
        )

    def generic(
        self, loops: str, ins: list[tuple[str, str, str]], out: str, body: list[str],
        init: str | None = None, element: str = "f32",
    ) -> str:  # fmt: skip
        """ins: (value, dims, element type); the body reads %a, %b, ... and %o and makes %r."""
        place = ", ".join(loops.split())
        dims = [d for _, d, _ in ins] + [out]
        maps = ", ".join(f"affine_map<({place}) -> ({', '.join(d.split())})>" for d in dims)
        kept = set(out.split())
        kinds = ", ".join(f'"{"parallel" if d in kept else "reduction"}"' for d in loops.split())
        start = init or self.empty(out, element)
        types = [self.kind(d, e) for _, d, e in ins]
        arguments = [f"%{'abcd'[i]}: {e}" for i, (_, _, e) in enumerate(ins)]
        given = f" ins({', '.join(v for v, _, _ in ins)} : {', '.join(types)})" if ins else ""
        kind = self.kind(out, element)
        inner = "".join(f"    {line}\n" for line in body)
        return self.op(
            f"linalg.generic {{indexing_maps = [{maps}], iterator_types = [{kinds}]}}{given}"
            f" outs({start} : {kind}) {{\n  ^bb0({', '.join([*arguments, f'%o: {element}'])}):\n"
            f"{inner}    linalg.yield %r : {element}\n  }} -> {kind}"
        )

    def map(self, dims: str, ins: list[tuple[str, str]], *body: str) -> str:
        return self.generic(dims, [(v, d, "f32") for v, d in ins], dims, list(body))

    def reduced(self, x: str, loops: str, out: str, op: str, start: str) -> str:
        body = [f"%r = arith.{op} %a, %o : f32"]
        return self.generic(loops, [(x, loops, "f32")], out, body, self.filled(out, start))

    def product(self, loops: str, a: tuple[str, str], b: tuple[str, str], out: str) -> str:
        body = ["%m = arith.mulf %a, %b : f32", "%r = arith.addf %m, %o : f32"]
        ins = [(*a, "f32"), (*b, "f32")]
        return self.generic(loops, ins, out, body, self.filled(out, "%zero"))

    def reshaped(self, x: str, before: str, after: str, groups: str) -> str:
        kinds = f"{self.kind(before)} into {self.kind(after)}"
        if len(after.split()) < len(before.split()):
            return self.op(f"tensor.collapse_shape {x} {groups} : {kinds}")
        sizes = self.kind(after)[7:-5].replace("x", ", ").replace("?", "%n")
        return self.op(f"tensor.expand_shape {x} {groups} output_shape [{sizes}] : {kinds}")


def normalised(w: Writer, x: str) -> str:
    total = w.reduced(x, "b s w", "b s", "addf", "%zero")
    mean = w.map("b s", [(total, "b s")], "%r = arith.divf %a, %width : f32")
    centred = w.map("b s w", [(x, "b s w"), (mean, "b s")], "%r = arith.subf %a, %b : f32")
    square = w.map("b s w", [(centred, "b s w")], "%r = arith.mulf %a, %a : f32")
    total = w.reduced(square, "b s w", "b s", "addf", "%zero")
    scale = w.map("b s", [(total, "b s")], "%v = arith.divf %a, %width : f32",
                  "%e = arith.addf %v, %epsilon : f32", "%r = math.rsqrt %e : f32")  # fmt: skip
    return w.map("b s w", [(centred, "b s w"), (scale, "b s")], "%r = arith.mulf %a, %b : f32")


def projected(w: Writer, x: str) -> str:
    """[BATCH, HEADS, rows, DIM] from [BATCH, rows, WIDTH], with a bias."""
    y = w.product("b s i w", (x, "b s w"), ("%wi", "w i"), "b s i")
    y = w.map("b s i", [(y, "b s i"), ("%bi", "i")], "%r = arith.addf %a, %b : f32")
    y = w.product("b s w i", (y, "b s i"), ("%iw", "i w"), "b s w")
    y = w.reshaped(y, "b s w", "b s h d", "[[0], [1], [2, 3]]")
    return w.transposed(y, "b s h d", "b h s d")


def layer(w: Writer, x: str, variant: str) -> str:
    y = normalised(w, x)
    q, k, v = (projected(w, y) for _ in range(3))
    q, k, v = (w.reshaped(t, "b h s d", "g s d", "[[0, 1], [2], [3]]") for t in (q, k, v))
    s = w.product("g s t d", (q, "g s d"), (k, "g t d"), "g s t")
    s = w.map("g s t", [(s, "g s t")], "%r = arith.mulf %a, %scale : f32")
    s = w.reshaped(s, "g s t", "b h s t", "[[0, 1], [2], [3]]")
    if variant in ("causal", "dynamic"):
        body = ["%i = linalg.index 0 : index", "%j = linalg.index 1 : index",
                "%r = arith.cmpi sge, %i, %j : index"]  # fmt: skip
        keep = w.generic("s t", [], "s t", body, element="i1")
        ins = [(keep, "s t", "i1"), (s, "b h s t", "f32")]
        body = ["%r = arith.select %a, %b, %low : f32"]
        s = w.generic("b h s t", ins, "b h s t", body)
    if variant == "padding":
        ins = [("%mask", "b t", "i1"), (s, "b h s t", "f32")]
        body = ["%r = arith.select %a, %b, %low : f32"]
        s = w.generic("b h s t", ins, "b h s t", body)
    top = w.reduced(s, "b h s t", "b h s", "maximumf", "%low")
    two = [("{}", "b h s t"), ("{}", "b h s")]
    e = w.map("b h s t", [(s, two[0][1]), (top, two[1][1])],
              "%d = arith.subf %a, %b : f32", "%r = math.exp %d : f32")  # fmt: skip
    total = w.reduced(e, "b h s t", "b h s", "addf", "%zero")
    p = w.map("b h s t", [(e, two[0][1]), (total, two[1][1])], "%r = arith.divf %a, %b : f32")
    p = w.reshaped(p, "b h s t", "g s t", "[[0, 1], [2], [3]]")
    o = w.product("g s d t", (p, "g s t"), (v, "g t d"), "g s d")
    o = w.reshaped(o, "g s d", "b h s d", "[[0, 1], [2], [3]]")
    o = w.transposed(o, "b h s d", "b s h d")
    o = w.reshaped(o, "b s h d", "b s w", "[[0], [1], [2, 3]]")
    x = w.map("b s w", [(x, "b s w"), (o, "b s w")], "%r = arith.addf %a, %b : f32")
    y = w.product("b s i w", (normalised(w, x), "b s w"), ("%wi", "w i"), "b s i")
    y = w.map("b s i", [(y, "b s i"), ("%bi", "i")], "%z = arith.addf %a, %b : f32",
              "%t = math.erf %z : f32", "%r = arith.mulf %z, %t : f32")  # fmt: skip
    y = w.product("b s w i", (y, "b s i"), ("%iw", "i w"), "b s w")
    return w.map("b s w", [(x, "b s w"), (y, "b s w")], "%r = arith.addf %a, %b : f32")


def module(layers: int, variant: str) -> str:
    w = Writer(variant == "dynamic")
    kind = w.kind("b s w")
    x = "%x"
    for _ in range(layers):
        x = layer(w, x, variant)
    numbers = {"zero": "0.0", "low": "0xFF800000", "width": f"{float(WIDTH)}",
               "epsilon": "1.0e-5", "scale": f"{DIM**-0.5}"}  # fmt: skip
    constants = "\n".join(f"  %{n} = arith.constant {v} : f32" for n, v in numbers.items())
    return (
        f"func.func @model(%x: {kind}, %wi: {w.kind('w i')}, %iw: {w.kind('i w')},"
        f" %bi: {w.kind('i')}, %mask: {w.kind('b t', 'i1')}) -> {kind} {{\n{constants}\n"
        f"  %c1 = arith.constant 1 : index\n  %n = tensor.dim %x, %c1 : {kind}\n"
        + "\n".join(w.lines) + f"\n  return {x} : {kind}\n}}\n"
    )  # fmt: skip


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.process_time()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.process_time() - start


def counted(call: Callable, seconds: dict[str, float], stage: str) -> Callable:
    def timed_call(*arguments):
        with timed(seconds, stage):
            return call(*arguments)

    return timed_call


def measure(source: bytes) -> tuple[int, int, dict[str, float]]:
    """(operations, sites substituted, seconds in each stage)."""
    seconds: dict[str, float] = {}
    options = Options(gate=False)
    original = rewrite.choose, rewrite.emit
    rewrite.choose, rewrite.emit = (
        counted(call, seconds, stage)
        for call, stage in zip(original, ("choose", "emit"), strict=True)
    )
    try:
        with (
            ir.Context(),
            ir.Location.unknown(),
            tempfile.TemporaryDirectory() as folder,
            bridge.without_cycle_collection(),
        ):
            with timed(seconds, "parse"):
                parsed = ir.Module.parse(source)
            operations = count(parsed)
            with timed(seconds, "raise"):
                index = Index(parsed)
                found = raise_sites(parsed, index)
            with timed(seconds, "rest"):
                report = rewrite.substitute(parsed, found, options, index)
            with timed(seconds, "write"):
                parsed.operation.write_bytecode(str(Path(folder) / "out.mlirbc"))
    finally:
        rewrite.choose, rewrite.emit = original
    seconds["rest"] -= seconds["choose"] + seconds["emit"]
    return operations, report.matched, seconds


def count(module: ir.Module) -> int:
    total = 0

    def visit(_op: ir.Operation) -> ir.WalkResult:
        nonlocal total
        total += 1
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="*", default=[12, 48, 192])
    parser.add_argument("--variant", choices=VARIANTS, nargs="*", default=list(VARIANTS))
    parser.add_argument("--profile", action="store_true", help="where the time goes, by function")
    options = parser.parse_args()
    stages = ("parse", "raise", "choose", "emit", "rest", "write")
    print(f"{'variant':8} {'layers':>6} {'ops':>7} {'sites':>6}", *(f"{s:>7}" for s in stages),
          f"{'total':>7} {'budget':>7} {'us/op':>6}")  # fmt: skip
    for variant in options.variant:
        for layers in options.layers:
            flags = [*LOCAL, "--compile-to=preprocessing", "--emit-mlir-bytecode=true"]
            source = compile_module(module(layers, variant), flags, plugin=False).vmfb
            measure(source)  # imports, tables, caches of the bindings
            profile = cProfile.Profile()
            if options.profile:
                profile.enable()
            operations, sites, seconds = measure(source)
            profile.disable()
            total = sum(seconds.values())
            budget = BUDGET[0] + BUDGET[1] * operations
            print(f"{variant:8} {layers:6} {operations:7} {sites:6}",
                  *(f"{seconds[s]:7.3f}" for s in stages),
                  f"{total:7.3f} {budget:7.3f} {1e6 * total / operations:6.1f}")  # fmt: skip
            if options.profile:
                pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
