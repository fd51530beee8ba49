"""How much room the trials that are still to come will take, by what those that are there took."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.plan import folder_traces
from orchestrator.spec.sweep import Sweep

LOOKED_AT = 20
"""Trained trials whose folders are added up."""


@dataclass(frozen=True)
class Need:
    """Bytes that `trials` trials to come will take, `each` of them."""

    trials: int
    each: float

    @property
    def total(self) -> float:
        """Bytes of all."""
        return self.trials * self.each


def predicted_bytes(sweep: Sweep) -> Need | None:
    """From the folders of trained trials of the sweep on this machine; None where none is trained."""
    look = folder_traces(sweep)
    trained, to_come = [], 0
    for trial in (*sweep.trials(), *sweep.teachers()):
        trial_id = trial.trial_id
        if look(trial_id).epoch >= trial.training.epochs:
            trained.append(trial_id)
        else:
            to_come += 1
    if not trained:
        return None
    root = Path(sweep.storage) / sweep.name
    looked_at = trained[:: max(1, len(trained) // LOOKED_AT)][:LOOKED_AT]
    sizes = [
        sum(file.stat().st_size for file in (root / trial_id).rglob("*") if file.is_file()) for trial_id in looked_at
    ]
    return Need(to_come, sum(sizes) / len(sizes))
