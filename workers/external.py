"""Measuring a network that was not trained here; on request into a folder like a trial's, with journal and results."""

import json
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

from orchestrator.spec.base import canonical
from orchestrator.spec.external import External
from orchestrator.spec.measures import Measure, value_keys
from orchestrator.spec.sweep import Evaluation
from orchestrator.spec.training import Attack
from workers import layout
from workers.data.splits import Splits
from workers.measurement import Measuring, Values, keep, kept_result, watched
from workers.measures.result import Parts, Result
from workers.models.classifier import Classifier
from workers.recorder import Recorder
from workers.storage import Folder
from workers.trial import LOCK_SECONDS, surroundings


class Found(NamedTuple):
    """values: of all measures, by name. flags: of each measure that has any."""

    values: Values
    flags: dict[str, list[str]]


def measuring_steps(
    model: Classifier, splits: Splits, evaluation: Evaluation, attack: Attack
) -> Generator[Measuring, None, Found]:
    """All measures, in steps; nothing is kept.

    Args:
        model: from images in [0, 1] to logits.
        splits: the images.
        evaluation: which measures, and their seed.
        attack: what stands in the place of the training attack.
    """
    found = Found({}, {})
    for measure in evaluation.measures:
        result = yield from _measured(model, splits, measure, attack, evaluation.seed, {})
        _add(found, measure, result.values, result.flags)
    return found


def recorded_steps(
    external: External, model: Classifier, splits: Splits, evaluation: Evaluation, folder: Folder
) -> Generator[Measuring, None, Found]:
    """The same, kept in a folder: what has a result there is not measured again, and a stopped measure goes on.

    Its journal has what the network's run is to hold, its last state among it.

    Args:
        external: what the network is called, and the attack.
        model: from images in [0, 1] to logits.
        splits: the images.
        evaluation: which measures, and their seed.
        folder: of this network.

    Raises:
        StorageError: another process is measuring it.
    """
    found, results = Found({}, {}), folder / layout.MEASURES
    with folder.lock(LOCK_SECONDS):
        recorder = Recorder(folder)
        attempt = 1 + sum(record.kind == "state" and record.text == "running" for record in recorder.journal.records)
        recorder.state("running")
        device = splits.test.x.device
        tags = {"attempt": str(attempt), "weights": external.weights, "data_digest": splits.digest}
        recorder.tags({**tags, **surroundings(device)})
        folder.write(layout.EXTERNAL, json.dumps(external.model_dump(mode="json"), indent=2).encode())
        try:
            for measure in evaluation.measures:
                kept = yield from _kept(external, model, splits, measure, evaluation.seed, results)
                _add(found, measure, kept["values"], kept["flags"])
                _record(recorder, measure, kept, external.attack, layout.result_name(measure, evaluation.seed), results)
        except BaseException:
            recorder.state("interrupted")
            raise
        recorder.tags({"evaluation_id": evaluation.evaluation_id})
        recorder.state("finished")
    return found


def _measured(
    model: Classifier, splits: Splits, measure: Measure, attack: Attack, seed: int, parts: Parts
) -> Generator[Measuring, None, Result]:
    more: dict[str, Any] = {"initial": None} if measure.needs_initial else {}
    steps = measure.load().steps(model, splits, measure, attack=attack, seed=seed, parts=parts, **more)
    result = yield from watched(steps, measure.name, layout.LAST)
    return result


def _kept(
    external: External, model: Classifier, splits: Splits, measure: Measure, seed: int, results: Folder
) -> Generator[Measuring, None, dict[str, Any]]:
    """A measure's result: that in the folder, or measured now and put there."""
    name = layout.result_name(measure, seed)
    if (known := kept_result(results, name)) is not None:
        return known
    content = {"measure": canonical(measure), "seed": seed, "network": layout.LAST, "epoch": 0}
    kept = yield from keep(
        results, name, content, lambda parts: _measured(model, splits, measure, external.attack, seed, parts)
    )
    return kept


def _record(
    recorder: Recorder, measure: Measure, kept: dict[str, Any], attack: Attack, name: str, results: Folder
) -> None:
    cost = {f"cost/{measure.name}_seconds": kept["seconds"], f"cost/{measure.name}_passes": measure.passes(attack)}
    recorder.metrics(kept["values"] | cost, 0, replace=True)
    recorder.tags({f"flags/{layout.LAST}/{measure.name}": "; ".join(kept["flags"])})
    if layout.arrays_name(name) in results.names():
        recorder.file(f"{layout.MEASURES}/{layout.arrays_name(name)}")


def _add(found: Found, measure: Measure, values: Values, flags: Sequence[str]) -> None:
    """In the order of the measure's names."""
    found.values.update({key: values[key] for key in value_keys([measure]) if key in values} | values)
    if flags:
        found.flags[measure.name] = list(flags)
