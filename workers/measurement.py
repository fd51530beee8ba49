"""Measuring a trial's networks: the last one, the best one, those of single epochs; only what has no result yet."""

import json
import time
from collections.abc import Generator
from dataclasses import dataclass

from orchestrator.spec.base import canonical
from orchestrator.spec.measures import Measure
from orchestrator.spec.sweep import Evaluation
from workers import layout
from workers.recorder import Recorder
from workers.steps import Tick
from workers.storage import Folder
from workers.training import Trainer

Values = dict[str, float]


@dataclass(frozen=True)
class Measuring:
    """Progress after training: `measure` has done `tick.done` of `tick.total` of its current part on `network`."""

    measure: str
    tick: Tick
    network: str = layout.LAST


class Measurement:
    """All measures on all networks of a trained trial.

    Values of the last network are recorded under their names at the last epoch; those of an earlier epoch's network
    under the same names at that epoch, so that they are curves; those of the best one as `best/<name>` at its epoch,
    which is also the value `best/epoch`.

    Args:
        trainer: trained to the end.
        evaluation: what to measure.
        results: folder of the results.
        recorder: gets the values and what they cost.
    """

    def __init__(self, trainer: Trainer, evaluation: Evaluation, results: Folder, recorder: Recorder) -> None:
        self._trainer, self._evaluation, self._results, self._recorder = trainer, evaluation, results, recorder
        self._seconds: dict[str, float] = {}
        self._by_epoch: dict[tuple[int, str], Values] = {}
        self._weights_of = trainer.epoch

    def run(self) -> Generator[Measuring, None, Values]:
        """Measures what is missing and returns all values: `best/...` as recorded, those of other epochs left out."""
        trainer, values = self._trainer, Values()
        names = layout.networks(trainer.trial, self._evaluation, trainer.selection.kept())
        for network in names:
            epoch = self._epoch(network)
            prefix = f"{layout.BEST}/" if network == layout.BEST else ""
            for measure in self._evaluation.measures:
                found = yield from self._measured(measure, network, epoch)
                found = {prefix + key: value for key, value in found.items()}
                self._recorder.metrics(found, epoch, replace=True)  # those of other settings may be there
                if network in {layout.LAST, layout.BEST}:
                    values |= found
        if layout.BEST in names:
            values[f"{layout.BEST}/epoch"] = self._epoch(layout.BEST)
            self._recorder.metrics({f"{layout.BEST}/epoch": values[f"{layout.BEST}/epoch"]}, trainer.epoch)
        cost = {f"cost/{name}_seconds": seconds for name, seconds in self._seconds.items()}
        self._recorder.metrics(cost, trainer.epoch, replace=True)
        kept = [str(self._epoch(name)) for name in names if name not in {layout.LAST, layout.BEST}]
        self._recorder.tags({"kept_epochs": ",".join(kept)})
        return values

    def _epoch(self, network: str) -> int:
        if network == layout.LAST:
            return self._trainer.epoch
        if network == layout.BEST:
            best = self._trainer.selection.best
            assert best is not None  # noqa: S101  (the last epoch is always looked at)
            return best.epoch
        return layout.kept_epoch(network)

    def _measured(self, measure: Measure, network: str, epoch: int) -> Generator[Measuring, None, Values]:
        """A measure's values: those in the folder, or measured now and put there."""
        name = layout.result_name(measure, self._evaluation.seed, network)
        key = epoch, layout.result_name(measure, self._evaluation.seed)
        if self._results.exists(name):
            content = json.loads(self._results.read(name))
            values, seconds = content["values"], content["seconds"]
        else:
            started = time.perf_counter()
            values = self._by_epoch.get(key)  # the best network may be the last one, too
            if values is None:
                values = yield from self._measure(measure, network, epoch)
            seconds = time.perf_counter() - started
            content = {"measure": canonical(measure), "seed": self._evaluation.seed, "network": network}
            content |= {"epoch": epoch, "values": values, "seconds": seconds}
            self._results.write(name, json.dumps(content, indent=2).encode())
        self._by_epoch[key] = values
        self._seconds[measure.name] = self._seconds.get(measure.name, 0.0) + seconds
        return dict(values)

    def _measure(self, measure: Measure, network: str, epoch: int) -> Generator[Measuring, None, Values]:
        trainer = self._trainer
        if epoch != self._weights_of:
            trainer.model.load_state_dict(trainer.selection.weights(epoch))
            self._weights_of = epoch
        steps = measure.load().steps(
            trainer.model,
            trainer.splits,
            measure,
            attack=trainer.trial.training.attack,
            seed=self._evaluation.seed,
        )
        try:
            while True:
                yield Measuring(measure.name, next(steps), network)
        except StopIteration as stop:
            values: Values = stop.value
            return values
