"""Writes DIR/checksums.txt (as sha256sum does) for the kernels in DIR/<backend>/.

    python tools/checksums.py DIR

``resources.kernel_file`` compares with it, so that a damaged installation is told apart from a bug.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path


def main(root: Path) -> None:
    files = sorted(p for p in root.glob("*/*") if p.is_file() and p.parent.name != "lib")
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n"
        for path in files
    ]
    (root / "checksums.txt").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
