"""What sets trials apart beside method, regulariser and seed: whatever varies in data, model and training."""

from collections import Counter
from collections.abc import Mapping, Sequence

from orchestrator.spec.base import canonical, flatten
from orchestrator.spec.sweep import SHARED, Trial


def differences(trials: Sequence[Trial]) -> list[dict[str, str]]:
    """For each trial its settings that not all trials have, by short name.

    A value that more than half of the trials have is the usual one, which is not named: in a study that varies one
    thing at a time, a trial is known by what is unusual about it. Trials with different settings differ here all the
    same.
    """
    kinds: dict[tuple[int, ...], int] = {}  # the cells of a grid share their parts: which of `flat` these are
    flat: list[dict[str, object]] = []
    of_trial = []
    for trial in trials:
        parts = {key: getattr(trial, key) for key in SHARED}
        same = tuple(map(id, parts.values()))
        if same not in kinds:
            kinds[same] = len(flat)
            flat.append(dict(flatten({key: canonical(part, complete=True) for key, part in parts.items()})))
        of_trial.append(kinds[same])
    unusual = _unusual(flat, Counter(of_trial))
    return [unusual[kind] for kind in of_trial]


def _unusual(flat: Sequence[Mapping[str, object]], trials: Mapping[int, int]) -> list[dict[str, str]]:
    """Of each kind the settings that not all trials have; `trials` says how many of each there are."""
    texts = [{key: _text(value) for key, value in one.items()} for one in flat]
    counts: dict[str, Counter[str | None]] = {key: Counter() for one in texts for key in one}
    for kind, one in enumerate(texts):
        for key, count in counts.items():
            count[one.get(key)] += trials[kind]
    varying = sorted(key for key, count in counts.items() if len(count) > 1)
    half = sum(trials.values()) / 2
    usual = {key: text for key in varying for text, count in counts[key].items() if count > half}
    names = _short_names(varying)
    return [
        {names[key]: one[key] for key in varying if key in one and (key not in usual or usual[key] != one[key])}
        for one in texts
    ]


def setting_labels(trials: Sequence[Trial]) -> list[str]:
    """For each trial its settings that not all trials have, `lr=0.1`; '' where none is unusual."""
    return [", ".join(f"{name}={text}" for name, text in found.items()) for found in differences(trials)]


def trial_labels(trials: Sequence[Trial]) -> dict[str, str]:
    """Short text for people by trial id, `at | none | steps=14 | seed 0`: method, regularisers, setting, seed."""
    by_id = {trial.trial_id: trial for trial in trials}
    return {
        trial_id: f"{trial.cell}{' | ' * bool(setting)}{setting} | seed {trial.seed}"
        for (trial_id, trial), setting in zip(by_id.items(), setting_labels(list(by_id.values())), strict=True)
    }


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, or the whole key where two would be the same. A component's name is its part's:
    `training.schedule.name` is `schedule`."""
    parts = {key: key.removesuffix(".name") for key in keys}
    last = Counter(part.rsplit(".", 1)[-1] for part in parts.values())
    return {key: short if last[short := part.rsplit(".", 1)[-1]] == 1 else part for key, part in parts.items()}


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
