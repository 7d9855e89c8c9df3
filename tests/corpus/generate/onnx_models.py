"""Attention as ONNX graphs write it, made node by node, through IREE's ONNX importer."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from .exported import Exported, Generator

OPSET = 17


class Graph:
    """Nodes with names of their own; a method call adds one and returns its result's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, kind: str, *inputs: str, **attributes) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(array, name))
        return name


def export(
    graph: Graph, result: str, inputs: dict[str, np.ndarray], shape: tuple[int, ...], sites: int
) -> Exported:
    kinds = {
        name: helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in inputs.items()
    }
    out = helper.make_tensor_value_info(result, TensorProto.FLOAT, shape)
    made = helper.make_graph(graph.nodes, "main", list(kinds.values()), [out], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    outputs = ReferenceEvaluator(model).run(None, inputs)
    return Exported(imported(model), "main", list(inputs.values()), outputs, sites)


def imported(model: onnx.ModelProto) -> str:
    """The model as IREE's importer writes it."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "model.mlir"
        onnx.save(model, source)
        importer = [sys.executable, "-m", "iree.compiler.tools.import_onnx"]
        subprocess.run([*importer, str(source), "-o", str(target)], check=True)
        return target.read_text()


def qkv(rows: int = 12, keys: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    lengths = {"q": rows, "k": keys, "v": keys}
    return {n: rng.standard_normal((2, 4, r, 16)).astype(np.float32) for n, r in lengths.items()}


def plain(axis: int = -1, sites: int = 1) -> Exported:
    """MatMul, Div, Softmax, MatMul; another softmax axis makes it a look-alike."""
    g = Graph()
    scores = g("MatMul", "q", g("Transpose", "k", perm=[0, 1, 3, 2]))
    scaled = g("Div", scores, g.constant(np.float32(4)))
    result = g("MatMul", g("Softmax", scaled, axis=axis), "v")
    return export(g, result, qkv(), (2, 4, 12, 16), sites)


def masked() -> Exported:
    """Scale on both operands; an additive mask that is made from a boolean input."""
    g = Graph()
    root = g.constant(np.float32(0.5))
    q = g("Mul", "q", root)
    k = g("Mul", g("Transpose", "k", perm=[0, 1, 3, 2]), root)
    zero = g.constant(np.zeros((), np.float32))
    low = g.constant(np.array(np.finfo(np.float32).min))
    bias = g("Where", "keep", zero, low)
    scores = g("Add", g("MatMul", q, k), bias)
    result = g("MatMul", g("Softmax", scores, axis=-1), "v")
    keep = np.random.default_rng(6).random((2, 1, 7, 12)) < 0.7
    return export(g, result, qkv(rows=7) | {"keep": keep}, (2, 4, 7, 16), 1)


def heads() -> Exported:
    """A packed projection, split and reshaped to heads, and merged again."""
    g = Graph()
    rng = np.random.default_rng(7)
    weight = g.constant(rng.standard_normal((64, 192)).astype(np.float32) / 8)
    packed = g("MatMul", "x", weight)
    shape = g.constant(np.array([2, 10, 4, 16], np.int64))

    def part(i: int, perm: list[int]) -> str:
        ends = [g.constant(np.array([n], np.int64)) for n in (64 * i, 64 * i + 64, 2)]
        return g("Transpose", g("Reshape", g("Slice", packed, *ends), shape), perm=perm)

    scores = g("MatMul", part(0, [0, 2, 1, 3]), part(1, [0, 2, 3, 1]))
    p = g("Softmax", g("Mul", scores, g.constant(np.float32(0.25))), axis=-1)
    o = g("Transpose", g("MatMul", p, part(2, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
    result = g("Reshape", o, g.constant(np.array([2, 10, 64], np.int64)))
    x = rng.standard_normal((2, 10, 64)).astype(np.float32)
    return export(g, result, {"x": x}, (2, 10, 64), 1)


def spelled_out() -> Exported:
    """The softmax as ReduceMax, Sub, Exp, ReduceSum, Div."""
    g = Graph()
    s = g("MatMul", "q", g("Transpose", "k", perm=[0, 1, 3, 2]))
    e = g("Exp", g("Sub", s, g("ReduceMax", s, axes=[3])))
    total = g("ReduceSum", e, g.constant(np.array([3], np.int64)))
    result = g("MatMul", g("Div", e, total), "v")
    return export(g, result, qkv(keys=9), (2, 4, 12, 16), 1)


def scaled(g: Graph) -> str:
    s = g("MatMul", "q", g("Transpose", "k", perm=[0, 1, 3, 2]))
    return g("Mul", s, g.constant(np.float32(0.25)))


def causal() -> Exported:
    """Where over a constant triangle, as GPT-2 is exported."""
    g = Graph()
    triangle = g.constant(np.tril(np.ones((1, 1, 12, 12), bool)))
    s = g("Where", triangle, scaled(g), g.constant(np.array(np.finfo(np.float32).min)))
    return export(g, g("MatMul", g("Softmax", s, axis=-1), "v"), qkv(), (2, 4, 12, 16), 1)


def arithmetic_mask() -> Exported:
    """s * m - 1e4 * (1 - m) with m cast from a boolean input."""
    g = Graph()
    m = g("Cast", "keep", to=TensorProto.FLOAT)
    rest = g("Sub", g.constant(np.float32(1)), m)
    low = g("Mul", rest, g.constant(np.float32(-1e4)))
    s = g("Add", g("Mul", scaled(g), m), low)
    result = g("MatMul", g("Softmax", s, axis=-1), "v")
    keep = np.random.default_rng(6).random((2, 1, 1, 12)) < 0.7
    return export(g, result, qkv() | {"keep": keep}, (2, 4, 12, 16), 1)


def padding() -> Exported:
    """BERT's: 1 - mask, cast and multiplied by the lowest float, from integers."""
    g = Graph()
    shape = g.constant(np.array([2, 1, 1, 12], np.int64))
    m = g("Cast", g("Reshape", "mask", shape), to=TensorProto.FLOAT)
    rest = g("Sub", g.constant(np.float32(1)), m)
    bias = g("Mul", rest, g.constant(np.float32(-1e4)))
    result = g("MatMul", g("Softmax", g("Add", scaled(g), bias), axis=-1), "v")
    mask = np.array([[1] * 12, [1] * 8 + [0] * 4], np.int64)
    return export(g, result, qkv() | {"mask": mask}, (2, 4, 12, 16), 1)


def guarded() -> Exported:
    """torch's SDPA: rows without a key are zero, by way of IsNaN."""
    g = Graph()
    s = g("Where", "keep", scaled(g), g.constant(np.array(-np.inf, np.float32)))
    p = g("Softmax", s, axis=-1)
    p = g("Where", g("IsNaN", p), g.constant(np.float32(0)), p)
    keep = np.random.default_rng(6).random((2, 1, 12, 12)) < 0.7
    keep[0, 0, 3] = False
    return export(g, g("MatMul", p, "v"), qkv() | {"keep": keep}, (2, 4, 12, 16), 1)


def grouped() -> Exported:
    """Two kv heads, repeated by Unsqueeze, Expand and Reshape."""
    g = Graph()
    inputs = qkv()
    inputs |= {n: inputs[n][:, :2] for n in "kv"}

    def repeat(name: str) -> str:
        x = g("Unsqueeze", name, g.constant(np.array([2], np.int64)))
        x = g("Expand", x, g.constant(np.array([2, 2, 2, 12, 16], np.int64)))
        return g("Reshape", x, g.constant(np.array([2, 4, 12, 16], np.int64)))

    s = g("MatMul", "q", g("Transpose", repeat("k"), perm=[0, 1, 3, 2]))
    result = g("MatMul", g("Softmax", s, axis=-1), repeat("v"))
    return export(g, result, inputs, (2, 4, 12, 16), 1)


def masked_probabilities() -> Exported:
    """The mask after the softmax: not attention."""
    g = Graph()
    p = g("Mul", g("Softmax", scaled(g), axis=-1), g("Cast", "keep", to=TensorProto.FLOAT))
    keep = np.random.default_rng(6).random((2, 1, 12, 12)) < 0.7
    return export(g, g("MatMul", p, "v"), qkv() | {"keep": keep}, (2, 4, 12, 16), 0)


def function(keep: np.ndarray | None = None, kv_heads: int = 4, **attributes) -> Exported:
    """The Attention of opset 23, which IREE does not import, as the function that ONNX defines."""
    inputs = qkv()
    inputs |= {n: inputs[n][:, :kv_heads] for n in "kv"}
    if keep is not None:
        inputs["keep"] = keep
    node = helper.make_node("Attention", list(inputs), ["o"], **attributes)
    kinds = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in inputs.items()
    ]
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, (2, 4, 12, 16))
    graph = helper.make_graph([node], "main", kinds, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    outputs = ReferenceEvaluator(model).run(None, inputs)
    model = onnx.inliner.inline_selected_functions(
        model, [("", "Attention")], inline_schema_functions=True
    )
    model = onnx.shape_inference.infer_shapes(model)
    return Exported(imported(model), "main", list(inputs.values()), outputs, 1)


def some_rows_masked() -> np.ndarray:
    keep = np.random.default_rng(6).random((2, 1, 12, 12)) < 0.7
    keep[0, 0, 3] = False
    return keep


MODELS: dict[str, Generator] = {
    "plain": plain,
    "masked": masked,
    "heads": heads,
    "spelled_out": spelled_out,
    "causal": causal,
    "arithmetic_mask": arithmetic_mask,
    "padding": padding,
    "guarded": guarded,
    "grouped": grouped,
    "masked_probabilities": masked_probabilities,
    "function": function,
    "function_causal": lambda: function(is_causal=1, softcap=2.0, kv_heads=2),
    "function_masked": lambda: function(some_rows_masked()),
    "function_bias": lambda: function(np.where(some_rows_masked(), 0.5, -np.inf).astype("f")),
    "softmax_over_queries": lambda: plain(axis=-2, sites=0),
}
