"""Does the answer hang on one method?"""

import math
from collections.abc import Sequence

import numpy as np

from orchestrator.analysis.bootstrap import Floats
from orchestrator.analysis.estimates import point_estimates
from orchestrator.analysis.results import Sensitivity, WithoutMethod


def leave_one_method_out(x: Floats, y: Floats, methods: Sequence[str], tau: float) -> Sensitivity:
    """The coefficients without each method in turn, the range of Kendall's tau, and the method that drives it.

    A correlation over all networks can be that of one method against all others, such as a method whose networks are
    flat and have a small gap for reasons of their own. Then tau falls when that method is left out.

    Args:
        x: Shape (n,), finite.
        y: Shape (n,), finite.
        methods: Each network's method, by name: all variants of a method are left out together.
        tau: Kendall's tau of all.
    """
    names = np.asarray(methods, dtype=object)
    different = list(dict.fromkeys(methods))
    if len(different) < 2:
        return Sensitivity(None, reason="there is one method only")
    without = []
    for name in different:
        kept = names != name
        values = point_estimates(x[kept], y[kept])
        found = [None] * 3 if isinstance(values, str) else [each if math.isfinite(each) else None for each in values]
        without.append(WithoutMethod(name, int(kept.sum()), *found))
    taus = {one.method: one.kendall for one in without if one.kendall is not None}
    if not taus:
        return Sensitivity(None, without=tuple(without), reason="no coefficient is left without any one method")
    driver = max(taus, key=lambda name: abs(taus[name] - tau))
    return Sensitivity(min(taus.values()), max(taus.values()), driver, tuple(without))
