"""Attention ops as MLIR: any order of loops, masks, score regions, run-time sizes, and results."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from iree_flashattn import oracle
from support.accuracy import sdpa_error

PLAIN = "iree_linalg_ext.yield %s : f32"
SOFTCAP = """%cap = arith.constant 2.0 : f32
    %t = math.tanh %s : f32
    %r = arith.mulf %t, %cap : f32
    iree_linalg_ext.yield %r : f32"""
# What flex_attention's causal score modification becomes: rows count loop m, keys loop k.
CAUSAL = """%row = iree_linalg_ext.index {m} : index
    %key = iree_linalg_ext.index {k} : index
    %keep = arith.cmpi sge, %row, %key : index
    %low = arith.constant 0xFF800000 : f32
    %r = arith.select %keep, %s, %low : f32
    iree_linalg_ext.yield %r : f32"""
NUMPY = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Case:
    """One attention op. Loops: b (batch), g (heads of a group), m (rows), d, k (keys), n."""

    name: str
    batch: int = 1
    group: int = 0  # 0: no such loop
    rows: int = 3
    keys: int = 3
    dim: int = 4
    columns: int = 4
    element: str = "f32"
    scale: float = 0.5
    ramp: bool = False
    loops: tuple[str, str, str] = ("bmd", "bkd", "bkn")  # of Q, K and V, one letter a dimension
    out: str = "bmn"
    mask: str = ""  # "random", "causal" or "ones" (boolean), "f32" or "element" (added)
    mask_loops: str = "bmk"
    region: str = PLAIN
    dynamic: str = ""  # loops whose lengths are known at run time

    @property
    def sizes(self) -> dict[str, int]:
        return {"b": self.batch, "g": self.group, "m": self.rows, "n": self.columns,
                "d": self.dim, "k": self.keys}  # fmt: skip

    @property
    def order(self) -> str:
        return "bgmndk" if self.group else "bmndk"

    @property
    def mask_element(self) -> str:
        return {"": "", "f32": "f32", "element": self.element}.get(self.mask, "i1")

    def kind(self, loops: str, element: str) -> str:
        sizes = ["?" if x in self.dynamic else str(self.sizes[x]) for x in loops]
        return f"tensor<{'x'.join([*sizes, element])}>"

    def text(self) -> str:
        """``@name(q, k, v[, mask]) -> o``, as MLIR."""
        operands = dict(zip("qkv", self.loops, strict=True))
        kinds = {name: self.kind(loops, self.element) for name, loops in operands.items()}
        maps = [*self.loops, ""]
        if self.mask:
            kinds["mask"] = self.kind(self.mask_loops, self.mask_element)
            maps.append(self.mask_loops)
        maps.append(self.out)
        loops = ", ".join(self.order)
        affine = ", ".join(f"affine_map<({loops}) -> ({', '.join(m)})>" for m in maps)
        out = self.kind(self.out, self.element)
        extra = (", %mask", f", {kinds['mask']}") if self.mask else ("", "")
        sizes, dims = "", ""
        if self.dynamic:
            names = [self._length(x) for x in self.out if x in self.dynamic]
            sizes = "".join(lines for lines, _ in names)
            dims = ", ".join(name for _, name in names)
        region = self.region.replace("{m}", str(self.order.index("m")))
        region = region.replace("{k}", str(self.order.index("k")))
        return f"""
func.func @{self.name}({", ".join(f"%{n}: {t}" for n, t in kinds.items())}) -> {out} {{
  %scale = arith.constant {self.scale} : f32
  {sizes}
  %init = tensor.empty({dims}) : {out}
  %o = iree_linalg_ext.attention <indexing_maps = [{affine}]>
      ins(%q, %k, %v, %scale{extra[0]} : {kinds["q"]}, {kinds["k"]}, {kinds["v"]}, f32{extra[1]})
      outs(%init : {out}) {{
  ^bb0(%s: f32):
    {region}
  }} -> {out}
  return %o : {out}
}}
"""

    def _length(self, loop: str) -> tuple[str, str]:
        """The lines that read a loop's length from an operand, and the name that it gets."""
        name, loops = next((n, x) for n, x in zip("qkv", self.loops, strict=True) if loop in x)
        kind, at = self.kind(loops, self.element), loops.index(loop)
        lines = (
            f"%at_{loop} = arith.constant {at} : index\n"
            f"  %size_{loop} = tensor.dim %{name}, %at_{loop} : {kind}\n  "
        )
        return lines, f"%size_{loop}"

    def inputs(self, rng: np.random.Generator) -> list[NDArray]:
        arrays = []
        for loops in self.loops:
            shape = [self.sizes[x] for x in loops]
            if self.ramp:
                values = (1 + np.arange(math.prod(shape)).reshape(shape)) / 10
            else:
                values = rng.standard_normal(shape)
            arrays.append(values.astype(NUMPY[self.element]))
        if self.mask:
            arrays.append(self._mask(rng))
        return arrays

    def _mask(self, rng: np.random.Generator) -> NDArray:
        shape = [self.sizes[x] for x in self.mask_loops]
        if self.mask == "ones":
            return np.ones(shape, bool)
        if self.mask == "causal":
            return np.broadcast_to(np.tri(self.rows, self.keys, dtype=bool), shape).copy()
        if self.mask == "random":
            keep = rng.random(shape) < 0.5
            keep[..., 0, :] = False  # a row that may read nothing: zero
            return keep
        return rng.standard_normal(shape).astype(NUMPY[self.mask_element])

    def expected(self, arrays: list[NDArray]) -> tuple[NDArray, float]:
        """The result in float64, and how far torch is from it in the element type."""

        def heads(array: NDArray, loops: str, order: str) -> NDArray:
            """[batch, heads, ...]: missing loops become length 1."""
            moved = array.transpose([loops.index(x) for x in order if x in loops])
            shape = [self.sizes[x] if x in loops else 1 for x in order]
            return moved.reshape(shape)

        q, k, v = (
            heads(a, loops, f"bg{tail}").astype(np.float64)
            for a, loops, tail in zip(arrays, self.loops, ("md", "kd", "kn"), strict=False)
        )
        options: dict = {}
        torch: dict = {}
        if self.mask:
            mask = heads(arrays[3], self.mask_loops, "bgmk")
            boolean = self.mask_element == "i1"
            options = {"excluded": ~mask} if boolean else {"bias": mask.astype(np.float64)}
            torch = {"attn_mask": mask if boolean else mask.astype(np.float32)}
        if self.region == SOFTCAP:  # tanh(s) * 2 is a cap of 2 on 2 s
            options |= {"softcap": 2.0}
        if self.region == CAUSAL:
            options |= {"band_hi": 0}
            torch = {"is_causal": True}
        scale = 2 * self.scale if self.region == SOFTCAP else self.scale
        out = oracle.attention(q, k, v, scale=scale, **options).out
        error = 0.0
        if self.region != SOFTCAP:  # torch's SDPA has none
            torch |= {"scale": self.scale, "enable_gqa": bool(self.group)}
            error = sdpa_error(q, k, v, out, self.element, **torch)
        kept = "bgmn" if self.group else "bmn"
        squeezed = out if self.group else out[:, 0]
        return squeezed.transpose([kept.index(x) for x in self.out]), error
