"""flatsweep's control plane: knows trials, Ray and MLflow, and never imports torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.notebook import compare, compared, correlate, describe, load_sweep, scatter

__version__ = "0.1.0"
__all__ = ["compare", "compared", "correlate", "describe", "load_sweep", "scatter"]


def __getattr__(name: str) -> Any:
    """The functions of `__all__`, imported when they are asked for: pandas takes a second."""
    if name not in __all__:
        raise AttributeError(f"module 'orchestrator' has no attribute '{name}'")
    from orchestrator import notebook

    return getattr(notebook, name)
