"""``iree-flashattn`` on the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script."""
    from .app import app

    try:
        app()
    except RuntimeError as error:  # the package's own errors are messages for the user
        print(f"iree-flashattn: {error}".replace("iree-flashattn: iree-", "iree-"), file=sys.stderr)
        sys.exit(1)
