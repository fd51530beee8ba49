"""Measuring a trial's networks: the last one, the best one, those of single epochs; only what has no result yet."""

import io
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from orchestrator.spec.base import canonical
from orchestrator.spec.measures import Measure
from orchestrator.spec.sweep import Evaluation
from workers import faults, layout
from workers.measures.result import Parts, Result
from workers.recorder import Recorder
from workers.sealed import sealed, unsealed
from workers.steps import Tick
from workers.storage import Folder
from workers.training import Trainer

logger = logging.getLogger(__name__)

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
        recorder: gets the values, and their cost: `cost/<measure>_seconds`, and `_passes` as the settings predict it.
        prefix: before every name, where they are not those of the sweep's own evaluation.
    """

    def __init__(
        self, trainer: Trainer, evaluation: Evaluation, results: Folder, recorder: Recorder, prefix: str = ""
    ) -> None:
        self._trainer, self._evaluation, self._results, self._recorder = trainer, evaluation, results, recorder
        self._prefix = prefix
        self._cost: defaultdict[str, float] = defaultdict(float)
        self._by_epoch: dict[tuple[int, str], dict[str, Any]] = {}
        self._weights_of = trainer.epoch

    def run(self) -> Generator[Measuring, None, Values]:
        """Measures what is missing and returns all values: `best/...` as recorded, those of other epochs left out."""
        trainer, values = self._trainer, Values()
        names = layout.networks(trainer.trial, self._evaluation, trainer.selection.kept())
        for network in names:
            epoch = self._epoch(network)
            inner = f"{layout.BEST}/" if network == layout.BEST else ""
            for measure in self._evaluation.measures:
                found = yield from self._measured(measure, network, epoch)
                found = {inner + key: value for key, value in found.items()}
                self._record(found, epoch)
                if network in {layout.LAST, layout.BEST}:
                    values |= found
        if layout.BEST in names:
            values[f"{layout.BEST}/epoch"] = self._epoch(layout.BEST)
            self._record({f"{layout.BEST}/epoch": values[f"{layout.BEST}/epoch"]}, trainer.epoch)
        self._record({f"cost/{key}": value for key, value in self._cost.items()}, trainer.epoch)
        kept = [str(self._epoch(name)) for name in names if name not in {layout.LAST, layout.BEST}]
        self._tag(f"{self._prefix}kept_epochs", ",".join(kept))
        return values

    def _record(self, values: Values, epoch: int) -> None:
        # those of other settings may be there
        named = {self._prefix + key: value for key, value in values.items()}
        self._recorder.metrics(named, epoch, replace=True)

    def _tag(self, tag: str, text: str) -> None:
        """A tag that is empty is recorded only where it was not so before."""
        if text or any(record.key == tag for record in self._recorder.journal.records):
            self._recorder.tags({tag: text})

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
        kept = kept_result(self._results, name)
        if kept is not None:
            self._results.delete_files([layout.parts_name(name)])  # of whoever died before that
        else:
            kept = yield from self._measure_and_keep(measure, network, epoch, name, self._by_epoch.get(key))
        self._by_epoch[key] = kept
        self._cost[f"{measure.name}_seconds"] += kept["seconds"]
        if kept["seconds"]:
            self._cost[f"{measure.name}_passes"] += measure.passes(self._trainer.trial.training.attack)
        self._tag(f"{self._prefix}flags/{network}/{measure.name}", "; ".join(kept.get("flags", [])))
        if layout.arrays_name(name) in self._results.names():
            self._recorder.file(f"{layout.MEASURES}/{layout.arrays_name(name)}")
        return dict(kept["values"])

    def _measure_and_keep(
        self, measure: Measure, network: str, epoch: int, name: str, known: dict[str, Any] | None
    ) -> Generator[Measuring, None, dict[str, Any]]:
        """A result as it is kept; `known` is that of the same weights under another name: the best may be the last."""
        content = {"measure": canonical(measure), "seed": self._evaluation.seed, "network": network, "epoch": epoch}
        if known is None:
            kept = yield from keep(
                self._results, name, content, lambda parts: self._measure(measure, network, epoch, parts)
            )
            return kept
        content |= {"values": known["values"], "flags": known.get("flags", []), "seconds": 0.0}
        self._results.write(name, sealed(content, indent=2))
        self._results.delete_files([layout.parts_name(name)])
        return content

    def _measure(self, measure: Measure, network: str, epoch: int, parts: Parts) -> Generator[Measuring, None, Result]:
        trainer = self._trainer
        if epoch != self._weights_of:
            trainer.model.load_state_dict(trainer.selection.weights(epoch))
            self._weights_of = epoch
        more: dict[str, Any] = {"initial": self._initial} if measure.needs_initial else {}
        steps = measure.load().steps(
            trainer.model,
            trainer.splits,
            measure,
            attack=trainer.trial.training.attack,
            seed=self._evaluation.seed,
            parts=parts,
            **more,
        )
        result = yield from watched(steps, measure.name, network)
        return result

    def _initial(self) -> nn.Module:
        """The network before its training: its weights are a function of the trial."""
        trainer = self._trainer
        return Trainer(trainer.trial, trainer.splits, None, trainer.device).model


def watched(steps: Generator[Tick, None, Any], measure: str, network: str) -> Generator[Measuring, None, Result]:
    """A measure's steps as progress on one network."""
    try:
        while True:
            yield Measuring(measure, next(steps), network)
    except StopIteration as stop:
        return Result.of(stop.value)
    finally:
        steps.close()


def kept_result(results: Folder, name: str) -> dict[str, Any] | None:
    """What is in a result's file; None where there is none, or, with a warning, a damaged one."""
    if (content := results.read_if_there(name)) is None:
        return None
    try:
        found = unsealed(content, values=dict, seconds=(int, float))
        flags = found.get("flags", [])
        if not all(type(value) in {int, float} for value in (*found["values"].values(), found["seconds"])):
            raise ValueError("a value is no number")
        if not (isinstance(flags, list) and all(isinstance(flag, str) for flag in flags)):
            raise ValueError("a flag is no text")
    except ValueError as error:
        logger.warning("%s/%s is damaged and measured again: %s", results, name, error)
        return None
    return found


def keep(
    results: Folder, name: str, content: dict[str, Any], measure: Callable[[Parts], Generator[Measuring, None, Result]]
) -> Generator[Measuring, None, dict[str, Any]]:
    """Measures, going on from the parts in the folder, and puts the result there.

    Args:
        results: the folder.
        name: of the result's file.
        content: what is kept beside values, flags and seconds.
        measure: from parts to the steps that return the result.

    Returns:
        What is in the file.
    """
    parts = KeptParts(results, layout.parts_name(name))
    started = time.perf_counter()
    result = yield from measure(parts)
    seconds = parts.seconds_before + time.perf_counter() - started
    content |= {"values": result.values, "flags": list(result.flags), "seconds": seconds}
    if result.arrays:
        results.write(layout.arrays_name(name), _npz(result.arrays))
    results.write(name, sealed(content, indent=2))
    faults.point("measure/kept", name)
    results.delete_files([layout.parts_name(name)])
    return content


class KeptParts(dict[str, Any]):
    """The finished parts of one measure on one network, in a file: each is on disk before the next one begins."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self.seconds_before, self._started = 0.0, time.perf_counter()
        if (content := folder.read_if_there(name)) is not None:
            try:
                kept = unsealed(content, parts=dict, seconds=(int, float))
            except ValueError as error:
                logger.warning("%s/%s is damaged, its measure begins again: %s", folder, name, error)
                return
            self.seconds_before = kept["seconds"]
            super().update(kept["parts"])

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        content = {"parts": dict(self), "seconds": self.seconds_before + time.perf_counter() - self._started}
        self._folder.write(self._name, sealed(content))
        faults.point("measure/part", self._name)


def _npz(arrays: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    plain: dict[str, Any] = {key: tensor.detach().cpu().numpy() for key, tensor in arrays.items()}
    np.savez_compressed(buffer, **plain)
    return buffer.getvalue()
