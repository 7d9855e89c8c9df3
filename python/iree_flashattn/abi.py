"""The dispatch ABI, read from its one source, ``flashattn_abi.h``.

The header is C so that kernels can include it; here its macros become ints. ``WORD``, ``FLAG`` and
``BINDING`` map the macro names without their prefixes, e.g. ``WORD["Q_STRIDE_B"] == 13``.
"""

from __future__ import annotations

import re
from functools import cache
from types import MappingProxyType

from . import resources

_DEFINE = re.compile(r"^#define\s+FA_([A-Z0-9_]+)\s+(0x[0-9a-fA-F]+|\d+)\b", re.MULTILINE)


@cache
def _macros() -> MappingProxyType[str, int]:
    text = resources.abi_header().read_text(encoding="utf-8")
    return MappingProxyType({name: int(value, 0) for name, value in _DEFINE.findall(text)})


def _with_prefix(prefix: str) -> MappingProxyType[str, int]:
    return MappingProxyType(
        {k.removeprefix(prefix): v for k, v in _macros().items() if k.startswith(prefix)}
    )


WORD = _with_prefix("WORD_")
FLAG = _with_prefix("FLAG_")
BINDING = _with_prefix("BINDING_")
WORD_COUNT = WORD["COUNT"]
