"""Tables of made-up trials for the tests of the analysis."""

import itertools

import numpy as np
import pandas as pd

MEASURE = "average_flatness_xi0.5"
TARGET = "robust_loss_gap"


def grid(methods, regularizers=("none",), settings=("",), seeds=1, checkpoints=("last",), **columns):
    """Every combination, values drawn from a seeded normal distribution unless given as columns of the right length."""
    cells = itertools.product(methods, regularizers, settings, range(seeds), checkpoints)
    rows = pd.DataFrame(cells, columns=["method", "regularizer", "setting", "seed", "checkpoint"])
    trial = rows.groupby(["method", "regularizer", "setting", "seed"], sort=False).ngroup()
    rows["trial_id"] = [f"t{number}" for number in trial]
    rows["method_name"] = [method.partition("(")[0] for method in rows["method"]]
    generator = np.random.default_rng(0)
    values = {MEASURE: generator.normal(size=len(rows)), TARGET: generator.normal(size=len(rows))}
    return rows.assign(**(values | columns))


def gaussian_cells(generator, cells, seeds, correlations, shared):
    """Values of networks in cells, each a mixture of its cell's part, correlated so, and seed noise of its own.

    Returns:
        Shape (variables, cells * seeds), of variance 1 and correlations `shared` times those of the cells; and the
        number of each network's cell.
    """
    correlations = np.asarray(correlations)
    cell = np.repeat(np.arange(cells), seeds)
    means = generator.multivariate_normal(np.zeros(len(correlations)), correlations, size=cells)[cell]
    noise = generator.normal(size=(cells * seeds, len(correlations)))
    return (np.sqrt(shared) * means + np.sqrt(1 - shared) * noise).T, cell
