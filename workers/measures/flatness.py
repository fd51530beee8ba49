"""What average- and worst-case flatness share: the examples, and the budget of the reference robust loss."""

from orchestrator.spec.measures import Flatness
from orchestrator.spec.training import Attack
from workers.data.splits import Images, Splits

STUTZ21_REFERENCE_RESTARTS = 10
"""Restarts behind the reference robust loss in the released code, against 1 behind the perturbed one."""


def examples_of(splits: Splits, settings: Flatness) -> Images:
    """The images that the measure is taken on."""
    return (splits.test if settings.split == "test" else splits.train).first(settings.examples)


def reference_attack(settings: Flatness, budget: Attack) -> Attack:
    """The attack behind RLoss(w): the same budget as behind RLoss(w + nu), or the released code's stronger one."""
    if settings.protocol == "matched":
        return budget
    return budget.model_copy(update={"restarts": STUTZ21_REFERENCE_RESTARTS, "random_start": True})
