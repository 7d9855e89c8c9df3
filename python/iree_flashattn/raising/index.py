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
_REARRANGING = frozenset(
    """tensor.expand_shape tensor.collapse_shape tensor.reshape tensor.cast
    linalg.transpose""".split()
)
_LOGS = frozenset(("math.log", "math.log2", "linalg.log"))
# Ops of these dialects may be erased when nobody reads them.
PURE_DIALECTS = ("arith", "math", "tensor", "linalg", "iree_linalg_ext", "affine", "complex")


# What a trace notes: the question asked about a value.
MADE, USED, READ, MADE_BY_A_SITE, UNDER_A_LOG = range(5)


class Trace:
    """The questions asked while one candidate was raised, each once, and their answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ir.Value, object]] = []
        self._seen: set[tuple[int, ir.Value]] = set()

    def note(self, question: int, value: ir.Value, answer: object) -> None:
        key = (question, value)
        if key not in self._seen:
            self._seen.add(key)
            self.asked.append((question, value, answer))


def is_named(name: str) -> bool:
    """Whether it is a linalg op whose region says no more than its name."""
    return name.startswith("linalg.") and name not in _REGIONS


def _has_run_time_size(op: ir.Operation) -> bool:
    for value in op.operands:
        kind = value.type
        if isinstance(kind, ir.RankedTensorType) and not kind.has_static_shape:
            return True
    return False


def _is_exponential(op: ir.Operation) -> bool:
    return "exp" in str(op.attributes["kind"])


class Index:
    """Operations of a module by value, and those that a search starts from."""

    def __init__(self, module: ir.Module) -> None:
        self._makers: dict[ir.Value, ir.Operation] = {}
        self._readers: dict[ir.Value, list[ir.Operation]] = {}
        self._bodies: dict[ir.Operation, list[ir.Operation]] = {}
        self.trace: Trace | None = None
        self.globals: dict[str, ir.Operation] = {}
        self.starts: list[ir.Operation] = []  # ops with an exponential or a softmax
        self.logs: list[ir.Operation] = []  # ops with a logarithm
        self.constants: list[ir.Operation] = []  # tensors
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
        if name == "arith.constant" and isinstance(op.results[0].type, ir.RankedTensorType):
            self.constants.append(op)
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
        elif is_named(name):
            return ir.WalkResult.SKIP
        return ir.WalkResult.ADVANCE

    def producer(self, value: ir.Value) -> ir.Operation | None:
        """The operation that defines the value, None for a block argument."""
        op = self._makers.get(value)
        if self.trace is not None:
            self.trace.note(MADE, value, op)
        return op

    def maker(self, value: ir.Value) -> ir.Operation | None:
        """The same, for what is asked about sizes, regions and the place of a dispatch: it is no
        part of a trace."""
        return self._makers.get(value)

    def users(self, value: ir.Value) -> list[ir.Operation]:
        """The ops that read the value's elements, not its size alone."""
        return self._noted(USED, value)

    def readers(self, value: ir.Value) -> list[ir.Operation]:
        """All ops that read the value."""
        return self._noted(READ, value)

    def asked(self, question: int, value: ir.Value) -> list[ir.Operation]:
        """The answer of ``users`` or ``readers``, for whoever compares traces."""
        found = self._readers.get(value, [])
        return found if question == READ else [op for op in found if not self._asks_size(op, 8)]

    def _asks_size(self, op: ir.Operation, depth: int) -> bool:
        """Whether only the size of what the op reads matters: ``tensor.dim``, and what rearranges
        a tensor for it or for nobody. The compiler finds such sizes without the elements."""
        if op.name == "tensor.dim":
            return True
        if op.name not in _REARRANGING or not depth:
            return False
        return all(self._asks_size(reader, depth - 1) for reader in self._readers.get(
            op.results[0], []))  # fmt: skip

    def _noted(self, question: int, value: ir.Value) -> list[ir.Operation]:
        found = self.asked(question, value)
        if self.trace is not None:
            self.trace.note(question, value, found)
        return found

    def body(self, op: ir.Operation) -> list[ir.Operation]:
        """The operations of the op's region, in order."""
        return self._bodies[op]

    def body_if_known(self, op: ir.Operation) -> list[ir.Operation] | None:
        return self._bodies.get(op)
