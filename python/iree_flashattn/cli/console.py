"""The terminal that tables are printed on."""

from __future__ import annotations

import os
import sys

from rich.console import Console

# Of a pipe or a file, which have no width: a terminal's usual 80 columns would cut the tables.
WIDTH = 120


def make() -> Console:
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else WIDTH, soft_wrap=False, highlight=False)
