"""flatsweep's control plane: knows trials, Ray and MLflow, and never imports torch."""

__version__ = "0.1.0"
