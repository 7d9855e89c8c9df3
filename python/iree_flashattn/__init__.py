"""Attention in stock IREE on hand-tuned FlashAttention kernels.

Kept light: the start-up hook of the environment imports it in every Python process.
"""

from __future__ import annotations

__all__ = ["__version__", "activate"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from .compilers import VERSION

        return VERSION
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def activate() -> None:
    """Makes every compilation in this process use the plugin.

    For compilations inside Python (``aot.export(...).compile(...)``, ``iree.compiler.api.Session``,
    the JAX plugin); call it once before the first. Raises ``activation.ActivationError`` when a
    compiler session has been made already, or when the installed compiler is not one that the
    plugin was built for.
    """
    from .activation import activate as implementation

    implementation()
