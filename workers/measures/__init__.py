"""The measures: pure functions over (network, data, settings, attack, seed), usable without Ray and MLflow.

`robustness(model, splits, settings, attack=..., seed=...)` returns its values; `robustness.steps(...)` is the same work
as a generator that can be stopped between its steps.
"""
