"""One walk over a module: who makes a value, who reads it, and what a region holds.

Asking the bindings for the owner of a value builds an op view, which imports its whole dialect
and costs more than everything else here; a walk hands out plain operations.
"""

from __future__ import annotations

from iree.compiler import ir

_REGIONS = frozenset(
    """linalg.generic linalg.reduce linalg.map iree_linalg_ext.attention
    iree_linalg_ext.online_attention""".split()
)
_FUNCTIONS = frozenset(("func.func", "util.func", "util.initializer"))
_SIZED = ("linalg.", "tensor.reshape", "tensor.expand_shape", "iree_linalg_ext.")
_ENDS = frozenset(("linalg.yield", "iree_linalg_ext.yield"))
_STARTS = frozenset(
    """math.exp math.exp2 math.powf linalg.softmax iree_linalg_ext.attention
    iree_linalg_ext.online_attention""".split()
)
_LOGS = frozenset(("math.log", "math.log2", "linalg.log"))
# Ops of these dialects may be erased when nobody reads them.
PURE_DIALECTS = ("arith", "math", "tensor", "linalg", "iree_linalg_ext", "affine", "complex")


def _has_run_time_size(op: ir.Operation) -> bool:
    kinds = [value.type for value in op.operands]
    return any(isinstance(k, ir.RankedTensorType) and not k.has_static_shape for k in kinds)


def _is_exponential(op: ir.Operation) -> bool:
    return "exp" in str(op.attributes["kind"])


class Index:
    """Operations of a module by value, and those that a search starts from."""

    def __init__(self, module: ir.Module) -> None:
        self._makers: dict[ir.Value, ir.Operation] = {}
        self._readers: dict[ir.Value, list[ir.Operation]] = {}
        self._bodies: dict[ir.Operation, list[ir.Operation]] = {}
        self.globals: dict[str, ir.Operation] = {}
        self.starts: list[ir.Operation] = []  # ops with an exponential or a softmax
        self.logs: list[ir.Operation] = []  # ops with a logarithm
        self.asserts: list[ir.Operation] = []
        # Ops that imply equal sizes whenever their function runs, in program order.
        self.sized: list[ir.Operation] = []
        self._straight: ir.Block | None = None  # the function's block, if it is the only one
        self._open: list[list] = []
        module.operation.walk(self._visit, ir.WalkOrder.PRE_ORDER)

    def _visit(self, op: ir.Operation) -> ir.WalkResult:
        name = op.name
        if self._open:
            body = self._open[-1]
            body[1].append(op)
            if name in _ENDS:
                self._open.pop()
            elif name in _STARTS and body[0] not in self.starts[-1:]:
                self.starts.append(self._open[0][0])
            elif name in _LOGS and body[0] not in self.logs[-1:]:
                self.logs.append(self._open[0][0])
        elif name == "util.global":
            self.globals[op.attributes["sym_name"].value] = op
            return ir.WalkResult.SKIP
        elif name == "hal.executable":
            return ir.WalkResult.SKIP
        elif name in _STARTS or (name == "linalg.elementwise" and _is_exponential(op)):
            self.starts.append(op)
        elif name in _LOGS:
            self.logs.append(op)
        elif name == "cf.assert":
            self.asserts.append(op)
        elif name in _FUNCTIONS:
            blocks = list(op.regions[0].blocks)
            self._straight = blocks[0] if len(blocks) == 1 else None
        for result in op.results:
            self._makers[result] = op
        if name.startswith(_SIZED) and _has_run_time_size(op) and op.block == self._straight:
            self.sized.append(op)
        readers = self._readers
        for operand in op.operands:
            found = readers.get(operand)
            if found is None:
                readers[operand] = [op]
            else:
                found.append(op)
        if name in _REGIONS:
            inner: list[ir.Operation] = []
            self._bodies[op] = inner
            self._open.append([op, inner])
        return ir.WalkResult.ADVANCE

    def producer(self, value: ir.Value) -> ir.Operation | None:
        """The operation that defines the value, None for a block argument."""
        return self._makers.get(value)

    def users(self, value: ir.Value) -> list[ir.Operation]:
        """The ops that read the value, but for those that only ask its size."""
        return [op for op in self.readers(value) if op.name != "tensor.dim"]

    def readers(self, value: ir.Value) -> list[ir.Operation]:
        """All ops that read the value."""
        return self._readers.get(value, [])

    def body(self, op: ir.Operation) -> list[ir.Operation]:
        """The operations of the op's region, in order."""
        return self._bodies[op]
