"""What average- and worst-case flatness share: the examples, and what is to be said about their values."""

from orchestrator.spec.measures import Flatness
from workers.data.splits import Images, Splits


def examples_of(splits: Splits, settings: Flatness) -> Images:
    """The images that the measure is taken on."""
    return (splits.test if settings.split == "test" else splits.train).first(settings.examples)


def negative_flag(name: str, flatness: float, noise: float) -> list[str]:
    """Says so where flatness is negative beyond twice its noise: the reference attack was the weaker one."""
    if flatness >= -2 * noise - 1e-6:
        return []
    return [f"{name} is negative ({flatness:.3g}): the reference's attack found more than the perturbed network's"]
