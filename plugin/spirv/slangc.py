"""Slang's compiler, through the C entry points of the library that the slangpy package carries."""

from __future__ import annotations

import ctypes
import importlib.util
from array import array
from functools import cache
from pathlib import Path


class MissingCompilerError(RuntimeError):
    """No Slang compiler on this machine; the message says how to get one."""


def _directory() -> Path:
    found = importlib.util.find_spec("slangpy")
    if found is None or found.origin is None:
        raise MissingCompilerError(
            "no shader compiler: the Slang compiler of the slangpy package is not installed"
            " (pip install slangpy); without it the package has no kernels for Vulkan"
        )
    return Path(found.origin).parent


def _library(stem: str) -> ctypes.CDLL:
    files = sorted(p for p in _directory().glob(f"lib{stem}*.so*") if p.is_file())
    if not files:
        raise MissingCompilerError(
            f"no shader compiler: {_directory()} has no lib{stem}*.so; slangpy for Linux carries it"
            " (pip install --force-reinstall slangpy)"
        )
    return ctypes.CDLL(str(files[0]))


@cache
def _compiler() -> ctypes.CDLL:
    lib = _library("slang-compiler")
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("spCreateSession", pointer, [text]),
        ("spCreateCompileRequest", pointer, [pointer]),
        ("spDestroyCompileRequest", None, [pointer]),
        ("spProcessCommandLineArguments", number, [pointer, ctypes.POINTER(text), number]),
        ("spCompile", number, [pointer]),
        ("spGetDiagnosticOutput", text, [pointer]),
        ("spGetEntryPointCode", pointer, [pointer, number, ctypes.POINTER(ctypes.c_size_t)]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


@cache
def _session() -> int:
    return _compiler().spCreateSession(None)


def compile_shader(arguments: list[str]) -> bytes:
    """The SPIR-V of ``slangc ARGUMENTS``, which name one source file and one entry point.

    Raises RuntimeError with the compiler's diagnostics, MissingCompilerError without a compiler.
    """
    lib = _compiler()
    request = lib.spCreateCompileRequest(_session())
    try:
        # Without "-o" no code is generated; the file itself is only written by slangc's main.
        words = [*arguments, "-o", "module.spv"]
        argv = (ctypes.c_char_p * len(words))(*(a.encode() for a in words))
        status = lib.spProcessCommandLineArguments(request, argv, len(words))
        if status >= 0:
            status = lib.spCompile(request)
        said = (lib.spGetDiagnosticOutput(request) or b"").decode()
        size = ctypes.c_size_t()
        code = lib.spGetEntryPointCode(request, 0, ctypes.byref(size)) if status >= 0 else None
        if not code:
            raise RuntimeError(f"slangc {' '.join(arguments)}\n{said}")
        return _tidied(ctypes.string_at(code, size.value))
    finally:
        lib.spDestroyCompileRequest(request)


# Slang asks for small types in uniform buffers too, which fewer devices have; the shaders keep
# them in storage buffers only. Capability numbers: SPIR-V specification, section 3.31.
_NARROWER = {4434: 4433, 4449: 4448}  # UniformAndStorageBuffer{16,8}BitAccess, StorageBuffer…
_OP_CAPABILITY = 17
# OpSourceContinued, OpSource, OpSourceExtension, OpName, OpMemberName: older validators do not
# know Slang as a source language, and names are half of a module.
_DEBUG = {2, 3, 4, 5, 6}
_OP_FUNCTION = 54


def _tidied(module: bytes) -> bytes:
    """The module with capabilities narrowed and debug information dropped."""
    words = array("I", module)
    tidy, at = words[:5], 5
    while at < len(words):
        opcode, length = words[at] & 0xFFFF, words[at] >> 16
        if opcode == _OP_FUNCTION:  # code follows
            tidy.extend(words[at:])
            break
        instruction = words[at : at + length]
        if opcode == _OP_CAPABILITY:
            instruction[1] = _NARROWER.get(instruction[1], instruction[1])
        if opcode not in _DEBUG:
            tidy.extend(instruction)
        at += length
    return tidy.tobytes()


def is_valid(module: bytes) -> bool:
    """Whether the SPIR-V validator that comes with Slang accepts the module.

    It is as new as the compiler; a distribution's ``spirv-val`` may not know what Slang emits.
    """
    validate = _library("slang-glslang").glslang_validateSPIRV
    validate.restype, validate.argtypes = ctypes.c_bool, [ctypes.c_char_p, ctypes.c_int]
    return validate(module, len(module) // 4)
