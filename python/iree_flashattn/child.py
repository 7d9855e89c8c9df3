"""The process in which the native ``iree-compile`` has its module rewritten.

``python -m iree_flashattn.child IN OUT``: IN is MLIR bytecode; OUT is written, as bytecode, only
when something was substituted. Exit status 1 and a message on standard error make the compilation
fail with that message.
"""

from __future__ import annotations

import os
import sys

from . import bridge


def main(argv: list[str]) -> int:
    source, target = argv
    try:
        from iree.compiler import ir

        with ir.Context(), ir.Location.unknown():
            module = ir.Module.parseFile(source)
            if bridge.rewrite(module):
                module.operation.write_bytecode(target)
    except BaseException as error:  # SystemExit too: the compilation must not go on
        print(bridge.describe(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    # Tearing down a context that holds gigabytes of weights takes time that nobody needs.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
