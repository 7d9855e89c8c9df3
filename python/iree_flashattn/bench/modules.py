"""Problems as MLIR modules, in the spellings that front ends and hand-written IR use.

Every module has one function, ``attention(q, k, v[, mask][, bias]) -> o``, on contiguous
[batch, heads, sequence, head dim] tensors; bf16 too.
"""

from __future__ import annotations

import math
import struct

from ..problems import Problem

_ALL = "affine_map<(b, h, m, s) -> (b, h, m, s)>"
_ROW = "affine_map<(b, h, m, s) -> (b, h, m)>"


def argument_types(p: Problem) -> dict[str, str]:
    """Name -> tensor type of the function's arguments, in order."""
    found = {
        "q": _tensor(p.batch, p.heads, p.q_len, p.dk, of=p.element),
        "k": _tensor(p.batch, p.kv_heads, p.kv_len, p.dk, of=p.element),
        "v": _tensor(p.batch, p.kv_heads, p.kv_len, p.dv, of=p.element),
    }
    if p.mask:
        found["mask"] = _tensor(*_sizes(p, p.mask_dims), of="i1")
    if p.bias:
        element = "f32" if p.bias == "f32" else p.element
        found["bias"] = _tensor(*_sizes(p, p.bias_dims), of=element)
    return found


def servable(p: Problem) -> bool:
    """Whether these spellings can say the problem: plain, causal, one mask or one bias."""
    plain = p.softcap is None and not p.sinks and not p.weights and p.band_lo is None
    plain = plain and p.fill == -math.inf and not p.empty_row_nan
    masks = bool(p.mask) + bool(p.bias) + (p.band_hi is not None)
    return plain and masks <= 1 and p.mask != "drop" and not p.transposed and p.layout == "bhsd"


def fused(p: Problem, function: str = "attention") -> str:
    """``iree_linalg_ext.attention``, with the kv heads and their groups as batch dims."""
    group = p.heads // p.kv_heads
    q5 = _tensor(p.batch, p.kv_heads, group, p.q_len, p.dk, of=p.element)
    o5 = _tensor(p.batch, p.kv_heads, group, p.q_len, p.dv, of=p.element)
    types = argument_types(p)
    maps = ["b, h, g, m, k", "b, h, s, k", "b, h, s, n", ""]
    operands, kinds = ["%q5", "%k", "%v", "%scale"], [q5, types["k"], types["v"], "f32"]
    prologue = ""
    if p.band_hi is not None:
        prologue = _causal_mask(p)
        maps.append("m, s")
        operands.append("%causal")
        kinds.append(_tensor(p.q_len, p.kv_len, of="i1"))
    for name, dims in (("mask", p.mask_dims), ("bias", p.bias_dims)):
        if name not in types:
            continue
        text, kind, at = _split_heads(name, types[name], dims, p)
        prologue += text
        maps.append(at)
        operands.append(f"%{name}5")
        kinds.append(kind)
    maps.append("b, h, g, m, n")
    affine = ", ".join(f"affine_map<(b, h, g, m, n, k, s) -> ({dims})>" for dims in maps)
    out = _tensor(p.batch, p.heads, p.q_len, p.dv, of=p.element)
    return f"""
func.func @{function}({_arguments(types)}) -> {out} {{
  %scale = arith.constant {_f32(p.effective_scale)} : f32
  %q5 = tensor.expand_shape %q [[0], [1, 2], [3], [4]]
    output_shape [{p.batch}, {p.kv_heads}, {group}, {p.q_len}, {p.dk}] : {types["q"]} into {q5}
  {prologue}
  %init = tensor.empty() : {o5}
  %o5 = iree_linalg_ext.attention <indexing_maps = [{affine}]>
    ins({", ".join(operands)} : {", ".join(kinds)}) outs(%init : {o5}) {{
    ^bb0(%score: f32):
      iree_linalg_ext.yield %score : f32
  }} -> {o5}
  %o = tensor.collapse_shape %o5 [[0], [1, 2], [3], [4]] : {o5} into {out}
  return %o : {out}
}}
"""


def decomposed(p: Problem, function: str = "attention") -> str:
    """Two batch_matmuls and a softmax spelled out, as front ends lower it; scores in f32.

    Grouped kv heads are repeated first, as PyTorch's math does it. With ``p.weights`` the function
    returns P as well.
    """
    types = argument_types(p)
    e = p.element
    scores = _tensor(p.batch, p.heads, p.q_len, p.kv_len, of="f32")
    rows = _tensor(p.batch, p.heads, p.q_len, of="f32")
    probabilities = _tensor(p.batch, p.heads, p.q_len, p.kv_len, of=e)
    sums = _tensor(p.batch, p.heads, p.q_len, p.dv, of="f32")
    out = _tensor(p.batch, p.heads, p.q_len, p.dv, of=e)
    names, kinds = ["%o"], [out]
    if p.weights:
        names, kinds = ["%o", "%p"], [out, probabilities]
    fold = "[[0, 1], [2], [3]]"
    flat = {
        name: _tensor(p.batch * p.heads, length, columns, of=element)
        for name, length, columns, element in (
            ("q", p.q_len, p.dk, e),
            ("k", p.kv_len, p.dk, e),
            ("v", p.kv_len, p.dv, e),
            ("s", p.q_len, p.kv_len, "f32"),
            ("p", p.q_len, p.kv_len, e),
            ("o", p.q_len, p.dv, "f32"),
        )
    }
    heads = "\n  ".join(_repeated(name, types[name], flat[name], p) for name in "kv")
    return f"""
func.func @{function}({_arguments(types)}) -> ({", ".join(kinds)}) {{
  %zero = arith.constant 0.0 : f32
  %low = arith.constant 0xFF800000 : f32
  %scale = arith.constant {_f32(p.effective_scale)} : f32
  %q3 = tensor.collapse_shape %q {fold} : {types["q"]} into {flat["q"]}
  {heads}
  %s3_init = tensor.empty() : {flat["s"]}
  %s3_zero = linalg.fill ins(%zero : f32) outs(%s3_init : {flat["s"]}) -> {flat["s"]}
  %s3 = linalg.batch_matmul indexing_maps = [affine_map<(b, m, s, k) -> (b, m, k)>,
      affine_map<(b, m, s, k) -> (b, s, k)>, affine_map<(b, m, s, k) -> (b, m, s)>]
      ins(%q3, %k3 : {flat["q"]}, {flat["k"]}) outs(%s3_zero : {flat["s"]}) -> {flat["s"]}
  %s = tensor.expand_shape %s3 {fold} output_shape [{p.batch}, {p.heads}, {p.q_len}, {p.kv_len}]
      : {flat["s"]} into {scores}
  %s_init = tensor.empty() : {scores}
  {_score_chain(p, types)}
  %r_init = tensor.empty() : {rows}
  %m_low = linalg.fill ins(%low : f32) outs(%r_init : {rows}) -> {rows}
  %max = linalg.generic {{indexing_maps = [{_ALL}, {_ROW}],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]}}
      ins(%scores : {scores}) outs(%m_low : {rows}) {{
    ^bb0(%x: f32, %acc: f32):
      %y = arith.maximumf %x, %acc : f32
      linalg.yield %y : f32
  }} -> {rows}
  %exp = linalg.generic {{indexing_maps = [{_ALL}, {_ROW}, {_ALL}],
      iterator_types = ["parallel", "parallel", "parallel", "parallel"]}}
      ins(%scores, %max : {scores}, {rows}) outs(%s_init : {scores}) {{
    ^bb0(%x: f32, %m: f32, %o: f32):
      %y = arith.subf %x, %m : f32
      %z = math.exp %y : f32
      linalg.yield %z : f32
  }} -> {scores}
  %r_zero = linalg.fill ins(%zero : f32) outs(%r_init : {rows}) -> {rows}
  %sum = linalg.generic {{indexing_maps = [{_ALL}, {_ROW}],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]}}
      ins(%exp : {scores}) outs(%r_zero : {rows}) {{
    ^bb0(%x: f32, %acc: f32):
      %y = arith.addf %x, %acc : f32
      linalg.yield %y : f32
  }} -> {rows}
  %p32 = linalg.generic {{indexing_maps = [{_ALL}, {_ROW}, {_ALL}],
      iterator_types = ["parallel", "parallel", "parallel", "parallel"]}}
      ins(%exp, %sum : {scores}, {rows}) outs(%s_init : {scores}) {{
    ^bb0(%x: f32, %l: f32, %o: f32):
      %y = arith.divf %x, %l : f32
      linalg.yield %y : f32
  }} -> {scores}
  {_narrow("p", probabilities, e)}
  %p3 = tensor.collapse_shape %p {fold} : {probabilities} into {flat["p"]}
  %o3_init = tensor.empty() : {flat["o"]}
  %o3_zero = linalg.fill ins(%zero : f32) outs(%o3_init : {flat["o"]}) -> {flat["o"]}
  %o3 = linalg.batch_matmul ins(%p3, %v3 : {flat["p"]}, {flat["v"]})
      outs(%o3_zero : {flat["o"]}) -> {flat["o"]}
  %o32 = tensor.expand_shape %o3 {fold} output_shape [{p.batch}, {p.heads}, {p.q_len}, {p.dv}]
      : {flat["o"]} into {sums}
  {_narrow("o", out, e)}
  return {", ".join(names)} : {", ".join(kinds)}
}}
"""


def _repeated(name: str, kind: str, flat: str, p: Problem) -> str:
    """K or V as [batch * heads, keys, columns], each kv head repeated for its group."""
    group = p.heads // p.kv_heads
    if group == 1:
        return f"%{name}3 = tensor.collapse_shape %{name} [[0, 1], [2], [3]] : {kind} into {flat}"
    columns = p.dk if name == "k" else p.dv
    wide = _tensor(p.batch, p.kv_heads, group, p.kv_len, columns, of=p.element)
    return f"""%{name}5_init = tensor.empty() : {wide}
  %{name}5 = linalg.generic {{indexing_maps = [affine_map<(b, h, g, s, d) -> (b, h, s, d)>,
      affine_map<(b, h, g, s, d) -> (b, h, g, s, d)>],
      iterator_types = ["parallel", "parallel", "parallel", "parallel", "parallel"]}}
      ins(%{name} : {kind}) outs(%{name}5_init : {wide}) {{
    ^bb0(%x: {p.element}, %old: {p.element}):
      linalg.yield %x : {p.element}
  }} -> {wide}
  %{name}3 = tensor.collapse_shape %{name}5 [[0, 1, 2], [3], [4]] : {wide} into {flat}"""


def _score_chain(p: Problem, types: dict[str, str]) -> str:
    """``%scores`` from ``%s``: scaled and masked."""
    scores = _tensor(p.batch, p.heads, p.q_len, p.kv_len, of="f32")
    maps, ins, kinds, block = [_ALL], ["%s"], [scores], ["%x: f32"]
    body = "%t = arith.mulf %x, %scale : f32\n"
    result = "%t"
    if p.band_hi is not None:
        body += f"""%m = linalg.index 2 : index
      %key = linalg.index 3 : index
      %shift = arith.constant {p.band_hi} : index
      %last = arith.addi %m, %shift : index
      %keep = arith.cmpi sle, %key, %last : index
      %u = arith.select %keep, %t, %low : f32
"""
        result = "%u"
    for name, dims, element in (
        ("mask", p.mask_dims, "i1"),
        ("bias", p.bias_dims, "f32" if p.bias == "f32" else p.element),
    ):
        if name not in types:
            continue
        at = ", ".join(d if d in kept else "0" for d, kept in zip("bhms", _kept(dims), strict=True))
        maps.append(f"affine_map<(b, h, m, s) -> ({at})>")
        ins.append(f"%{name}")
        kinds.append(types[name])
        block.append(f"%e: {element}")
        if name == "mask":
            body += "%u = arith.select %e, %t, %low : f32\n"
        elif element == "f32":
            body += "%u = arith.addf %t, %e : f32\n"
        else:
            body += f"%f = arith.extf %e : {element} to f32\n%u = arith.addf %t, %f : f32\n"
        result = "%u"
    return f"""%scores = linalg.generic {{indexing_maps = [{", ".join(maps)}, {_ALL}],
      iterator_types = ["parallel", "parallel", "parallel", "parallel"]}}
      ins({", ".join(ins)} : {", ".join(kinds)}) outs(%s_init : {scores}) {{
    ^bb0({", ".join(block)}, %old: f32):
      {body}
      linalg.yield {result} : f32
  }} -> {scores}"""


def _kept(dims: str) -> list[str]:
    """For each of b, h, m, s itself where the mask has that dim, else nothing."""
    return [name if dim in dims else "" for dim, name in zip("bhqk", "bhms", strict=True)]


def _causal_mask(p: Problem) -> str:
    kind = _tensor(p.q_len, p.kv_len, of="i1")
    return f"""%causal_init = tensor.empty() : {kind}
  %causal = linalg.generic {{indexing_maps = [affine_map<(m, s) -> (m, s)>],
      iterator_types = ["parallel", "parallel"]}} outs(%causal_init : {kind}) {{
    ^bb0(%old: i1):
      %m = linalg.index 0 : index
      %key = linalg.index 1 : index
      %shift = arith.constant {p.band_hi} : index
      %last = arith.addi %m, %shift : index
      %keep = arith.cmpi sle, %key, %last : index
      linalg.yield %keep : i1
  }} -> {kind}
  """


def _split_heads(name: str, kind: str, dims: str, p: Problem) -> tuple[str, str, str]:
    """(ops, type, map) of a mask without its unit dims and with its heads as (kv, group)."""
    group = p.heads // p.kv_heads
    element = kind.removesuffix(">").rpartition("x")[2]
    sizes = {"b": p.batch, "h": p.heads, "q": p.q_len, "k": p.kv_len}
    kept = [d for d in "bhqk" if d in dims]
    flat = _tensor(*(sizes[d] for d in kept), of=element)
    groups, current = [], []
    for axis, dim in enumerate("bhqk"):
        current.append(str(axis))
        if dim in kept:
            groups.append(current)
            current = []
    if current:
        groups[-1] += current
    reassociation = ", ".join(f"[{', '.join(g)}]" for g in groups)
    at = {"b": "b", "h": "h, g", "q": "m", "k": "s"}
    text = f"%{name}_flat = tensor.collapse_shape %{name} [{reassociation}] : {kind} into {flat}\n"
    if len(kept) == 4:
        text = f"%{name}_flat = tensor.cast %{name} : {kind} to {flat}\n"
    if "h" not in kept:
        return text.replace("_flat =", "5 ="), flat, ", ".join(at[d] for d in kept)
    shape, association, axis = [], [], 0
    for dim in kept:
        parts = [p.kv_heads, group] if dim == "h" else [sizes[dim]]
        association.append([str(axis + i) for i in range(len(parts))])
        axis += len(parts)
        shape += parts
    split = _tensor(*shape, of=element)
    reassociation = ", ".join(f"[{', '.join(g)}]" for g in association)
    text += (
        f"  %{name}5 = tensor.expand_shape %{name}_flat [{reassociation}]"
        f" output_shape {shape} : {flat} into {split}\n"
    )
    return text, split, ", ".join(at[d] for d in kept)


def _narrow(name: str, kind: str, element: str) -> str:
    wide = kind.replace(f"x{element}>", "xf32>")
    if element == "f32":
        return f"%{name} = tensor.cast %{name}32 : {wide} to {kind}"
    return f"%{name} = arith.truncf %{name}32 : {wide} to {kind}"


def _sizes(p: Problem, dims: str) -> list[int]:
    sizes = {"b": p.batch, "h": p.heads, "q": p.q_len, "k": p.kv_len}
    return [sizes[d] if d in dims else 1 for d in "bhqk"]


def _tensor(*sizes: int, of: str) -> str:
    return f"tensor<{''.join(f'{size}x' for size in sizes)}{of}>"


def _arguments(types: dict[str, str]) -> str:
    return ", ".join(f"%{name}: {kind}" for name, kind in types.items())


def _f32(value: float) -> str:
    """An exact f32 literal."""
    return f"0x{struct.unpack('<I', struct.pack('<f', value))[0]:08X}"
