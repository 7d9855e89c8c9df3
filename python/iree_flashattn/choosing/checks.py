"""Questions that are left for the device that runs the module."""

from __future__ import annotations

from collections.abc import Sequence

Check = tuple[str, str, tuple[int, ...]]  # category and key of a device query, accepted answers


def implied(weaker: Sequence[Check], stronger: Sequence[Check]) -> bool:
    """Whether every device that passes the ``stronger`` checks passes the ``weaker`` ones."""
    passed = {(category, key): set(accepted) for category, key, accepted in stronger}
    return all(
        (category, key) in passed and passed[category, key] <= set(accepted)
        for category, key, accepted in weaker
    )
