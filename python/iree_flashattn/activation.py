"""``iree_flashattn.activate()``: the plugin for compilations inside this Python process."""

from __future__ import annotations

import ctypes
import sys

from . import _startup, bridge

# The compiler makes one session for itself when it is loaded.
_SESSIONS_OF_THE_COMPILER = 1
_callback = None


class ActivationError(RuntimeError):
    """The plugin cannot be used in this process; the message says why and what to do."""


def activate() -> None:
    """See :func:`iree_flashattn.activate`. Calling it again does nothing."""
    global _callback
    if _callback is not None:
        return
    loaded_before = "iree.compiler" in sys.modules
    try:
        import iree
    except ImportError as error:
        raise ActivationError(
            "iree.compiler is not installed (pip install iree-base-compiler)"
        ) from error
    if reason := _startup.offer_plugin(iree.__path__):
        raise ActivationError(reason)
    import iree.compiler.api  # loads the compiler, and the compiler loads the plugin

    library = ctypes.CDLL(_startup.plugin_path())
    sessions = library.flashattn_session_count()
    if sessions < _SESSIONS_OF_THE_COMPILER:
        assert loaded_before
        raise ActivationError(
            "iree_flashattn.activate() was called too late: iree.compiler was imported before"
            " without the plugin in IREE_LOAD_PLUGINS; call activate() before that import"
        )
    if sessions > _SESSIONS_OF_THE_COMPILER:
        raise ActivationError(
            "iree_flashattn.activate() was called too late: this process has made"
            f" {sessions - _SESSIONS_OF_THE_COMPILER} compiler session(s), which keep compiling"
            " without the plugin; call it before the first compilation"
        )
    _register_targets()
    _callback = _make_callback(library)
    library.flashattn_activate(_callback)


def _register_targets() -> None:
    """Compiles an empty module, so that later sessions may be used in several threads.

    The first compilation of a process registers LLVM's targets in a linked list, and LLVM does not
    guard it: where two threads compile first and at once, the list of IREE 3.13 can end in a
    circle, and every compilation then searches it for ever.
    """
    from iree.compiler.api import Session, Source

    with (
        Session() as session,
        session.invocation() as invocation,
        Source.wrap_buffer(session, b"module {}\0") as source,
    ):
        if invocation.parse_source(source):
            invocation.execute()


def _make_callback(library: ctypes.CDLL):
    import gc

    from iree.compiler import ir
    from iree.compiler.api import ctypes_dl

    prototype = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)
    library.flashattn_activate.argtypes = [prototype]
    library.flashattn_set_error.argtypes = [ctypes.c_char_p]

    def borrow(pointer: int):
        """The compiler's module as a ``builtin.ModuleOp`` that does not own it.

        Wrapping an operation wraps its context, and that wrapper would destroy the compiler's
        context with itself. So a wrapper that did not exist before is kept for ever; the bindings
        find it again if another context comes to the same address.
        """
        contexts = ir.Context._get_live_count()
        capsule = ctypes_dl.PyCapsule_New(pointer, ctypes_dl.MLIR_PYTHON_CAPSULE_OPERATION, None)
        operation = ir.Operation._CAPICreate(capsule)
        if ir.Context._get_live_count() > contexts:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(operation.context))
        return operation.opview

    @prototype
    def callback(pointer: int) -> bool:
        try:
            module = borrow(pointer)
            with module.context, ir.Location.unknown():
                bridge.rewrite(module)
            return True
        except BaseException as error:  # nothing may leave a callback from C
            library.flashattn_set_error(bridge.describe(error).encode())
            return False
        finally:
            # Operations that were taken out of the module die here, and not after their context.
            gc.collect()

    return callback
