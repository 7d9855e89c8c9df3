"""The built objects are what IREE's embedded ELF linker and loader can take."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from iree_flashattn import catalog, resources

KERNELS = catalog.kernels("cpu")
SHT_SYMTAB, SHF_WRITE, SHF_TLS = 2, 0x1, 0x400
STV_HIDDEN, SHN_UNDEF = 2, 0
# Position-independent, resolved when the module is linked: nothing is left for the loader to do.
X86_PC32, X86_PLT32, X86_PC64 = 2, 4, 24
ALLOWED = {62: {X86_PC32, X86_PLT32, X86_PC64}, 183: set(range(257, 313))}


class Object:
    """As much of an ELF64 relocatable file as the tests ask about."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        assert data[:4] == b"\x7fELF", path
        assert data[4] == 2, f"{path} is not 64-bit"
        self.machine = struct.unpack_from("<H", data, 18)[0]
        offset, entry, count, names = (
            struct.unpack_from("<Q", data, 40)[0],
            *struct.unpack_from("<HHH", data, 58),
        )
        raw = [struct.unpack_from("<IIQQQQIIQQ", data, offset + i * entry) for i in range(count)]
        text = lambda table, at: data[raw[table][4] + at :].split(b"\0", 1)[0].decode()  # noqa: E731
        self.sections = [(text(names, r[0]), r[1], r[2], r[5]) for r in raw]
        self.symbols, self.relocations = [], set()
        for r in raw:
            body = data[r[4] : r[4] + r[5]]
            if r[1] == SHT_SYMTAB:
                for at in range(24, len(body), 24):
                    name, info, other, section = struct.unpack_from("<IBBH", body, at)
                    self.symbols.append((text(r[6], name), info >> 4, other & 3, section))
            elif r[1] == 4:  # SHT_RELA
                for at in range(0, len(body), 24):
                    self.relocations.add(struct.unpack_from("<Q", body, at + 8)[0] & 0xFFFFFFFF)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_object(kernel):
    built = Object(resources.kernel_file("cpu", f"{kernel.name}.o"))
    assert built.machine == {"x86_64": 62, "aarch64": 183}[kernel.target["arch"]]
    writable = [s[0] for s in built.sections if s[2] & SHF_WRITE and s[3]]
    assert not writable, "writable globals"
    assert not [s[0] for s in built.sections if s[2] & SHF_TLS], "thread-local storage"
    undefined = [s[0] for s in built.symbols if s[3] == SHN_UNDEF and s[0]]
    assert not undefined, "calls into a library"
    exported = [(name, other) for name, binding, other, section in built.symbols if binding == 1]
    assert exported == [(kernel.name, STV_HIDDEN)]
    assert built.relocations <= ALLOWED[built.machine]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_scratch_memory_is_within_the_limit(kernel):
    """512 KB a worker; not more than the smallest L2 cache that goes with the instruction set,
    because IREE's worker memory is as large as that cache."""
    limit = 512 * 1024 if "avx512f" in kernel.target["features"] else 256 * 1024
    assert 0 < kernel.scratch_bytes <= limit
