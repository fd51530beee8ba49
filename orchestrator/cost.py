"""What measuring will cost: passes as the settings predict them, seconds from what passes took so far."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from orchestrator.plan import Plan
from orchestrator.trial_run import TrialRun
from workers import layout


@dataclass(frozen=True)
class Cost:
    """Of one measure over a plan."""

    measure: str
    networks: int
    passes: float
    """Forward-backward passes of single images, an upper bound; 0 where the measure does not say."""
    seconds: float | None
    """On one trial's resources; None where nothing is recorded to tell by."""


def costs(plan: Plan, runs: Sequence[TrialRun]) -> list[Cost]:
    """For each measure what a plan's missing results will cost, in the order of the evaluation."""
    evaluation = plan.sweep.evaluation
    networks: defaultdict[str, int] = defaultdict(int)
    passes: defaultdict[str, float] = defaultdict(float)
    predicted = cache(lambda measure, attack: measure.passes(attack))  # trials share their attacks
    for entry in plan.to_launch():
        trial, trained = entry.trial, entry.traces.epoch >= entry.trial.training.epochs
        if entry.is_teacher:
            continue
        for network in layout.networks(trial, evaluation, entry.traces.kept if trained else trial.training.kept_epochs):
            for measure in evaluation.measures:
                if layout.result_name(measure, evaluation.seed, network) not in entry.traces.results:
                    networks[measure.name] += 1
                    passes[measure.name] += predicted(measure, trial.training.attack)
    rates = seconds_per_pass(runs)
    found = []
    for name in networks:
        rate = rates.get(name, rates.get(""))
        found.append(Cost(name, networks[name], passes[name], None if rate is None else rate * passes[name]))
    return found


def seconds_per_pass(runs: Sequence[TrialRun]) -> dict[str, float]:
    """By measure, over everything recorded, and under '' over all measures together."""
    seconds: defaultdict[str, float] = defaultdict(float)
    passes: defaultdict[str, float] = defaultdict(float)
    for run in runs:
        for key, value in run.metrics.items():
            before, cost, name = key.rpartition("cost/")
            if cost and name.endswith("_passes") and value > 0:
                measure = name.removesuffix("_passes")
                took = run.metrics.get(f"{before}cost/{measure}_seconds", 0.0)
                for place in (measure, ""):
                    seconds[place] += took
                    passes[place] += value
    return {name: seconds[name] / passes[name] for name in passes}
