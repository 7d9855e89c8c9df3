"""Attention in stock IREE on hand-tuned FlashAttention kernels.

Kept light: the start-up hook of the environment imports it in every Python process.
"""

from __future__ import annotations

from .compilers import VERSION as __version__

__all__ = ["__version__", "activate"]


def activate() -> None:
    """Makes every compilation in this process use the plugin.

    For compilations inside Python (``aot.export(...).compile(...)``, ``iree.compiler.api.Session``,
    the JAX plugin); call it once before the first. Raises ``ActivationError`` when a compiler session
    has been made already, or when the installed compiler is not one that the plugin was built for.
    """
    from .activation import activate as implementation

    implementation()
