"""Does the answer hang on one method?"""

import math
from collections.abc import Sequence

from orchestrator.analysis.bootstrap import Floats
from orchestrator.analysis.results import Sensitivity, WithoutMethod


def leave_one_method_out(methods: Sequence[str], networks: Sequence[int], values: Floats, tau: float) -> Sensitivity:
    """The coefficients without each method in turn, the range of Kendall's tau, and the method that drives it.

    A correlation over all networks can be that of one method against all others, such as a method whose networks are
    flat and have a small gap for reasons of their own. Then tau falls when that method is left out.

    Args:
        methods: By name: all variants of a method are left out together.
        networks: How many are left without each.
        values: Shape (3, methods): Pearson r, Spearman rho and Kendall tau-b of these; NaN where there is none.
        tau: Kendall's tau of all.
    """
    if len(methods) < 2:
        return Sensitivity(None, reason="there is one method only")
    without = tuple(
        WithoutMethod(name, left, *(float(value) if math.isfinite(value) else None for value in found))
        for name, left, found in zip(methods, networks, values.T, strict=True)
    )
    taus = {one.method: one.kendall for one in without if one.kendall is not None}
    if not taus:
        return Sensitivity(None, without=without, reason="no coefficient is left without any one method")
    driver = max(taus, key=lambda name: abs(taus[name] - tau))
    return Sensitivity(min(taus.values()), max(taus.values()), driver, without)
