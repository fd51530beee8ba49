"""Other evaluations of a sweep than its own: made from what the command line says, kept by id, measured apart."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import UserError, suggest
from orchestrator.plan import Action, Plan, make_plan, missing_measures
from orchestrator.spec.base import place_of
from orchestrator.spec.document import NotYamlError, read_document
from orchestrator.spec.measures import MEASURES, Measure
from orchestrator.spec.sweep import Evaluation, Sweep
from orchestrator.tracking import Store
from orchestrator.trial_run import TrialRun
from workers import layout
from workers.storage import Folder

FOLDER = "evaluations"
"""In the sweep's folder: one file for each evaluation besides the sweep's own."""
ANALYSIS = "analysis"
"""In the sweep's folder and among its artifacts: table, correlation, figures and report of its own evaluation."""
SHOWN_DIGITS = 8
"""Of an evaluation's id, where people read it."""


@dataclass(frozen=True)
class Changes:
    """What the command line says of an evaluation; what it does not say is as in the sweep file."""

    measures: str | None = None
    """Names, separated by commas, or a YAML list of names and mappings."""
    settings: tuple[str, ...] = ()
    """`key=value`: for every measure that has the setting; `measure.key=value` for one."""
    checkpoints: str | None = None
    """Names, separated by commas."""
    seed: int | None = None
    preset: str | None = None
    """For every measure that gives none itself."""


def changed(sweep: Sweep, changes: Changes) -> Evaluation:
    """The evaluation of a sweep that the command line means.

    Raises:
        UserError: unknown measure, setting or network, a value out of its range, or nothing that differs.
    """
    found = applied(sweep.evaluation, changes)
    if found.evaluation_id == sweep.evaluation.evaluation_id:
        raise UserError("these are the sweep file's own settings, which `submit` measures; change some with --set")
    return found


def applied(evaluation: Evaluation, changes: Changes) -> Evaluation:
    """An evaluation with what the command line says of it.

    Raises:
        UserError: unknown measure, setting or network, or a value out of its range.
    """
    measures = list(evaluation.measures)
    if changes.measures is not None or changes.preset is not None:
        own = {} if changes.preset else {measure.name: measure for measure in measures}
        text = changes.measures or ",".join(measure.name for measure in measures)
        given = _yaml(text if text.lstrip()[:1] in {"[", "-"} else f"[{text}]", "--measures")
        items = [_with_preset(item, changes.preset) for item in (given if isinstance(given, list) else [given])]
        measures = [_measure(item, own) for item in items]
    data = [measure.model_dump(mode="json") for measure in measures]
    for setting in changes.settings:
        _set(data, setting)
    wanted: dict[str, Any] = {"measures": data, "seed": evaluation.seed, "checkpoints": evaluation.checkpoints}
    if changes.checkpoints is not None:
        wanted["checkpoints"] = [name.strip() for name in changes.checkpoints.split(",")]
    if changes.seed is not None:
        wanted["seed"] = changes.seed
    try:
        found = Evaluation.model_validate(wanted)
    except ValidationError as error:
        raise UserError("\n".join(_told(error, data))) from error
    return found


def _with_preset(item: Any, preset: str | None) -> Any:
    if preset is None or not isinstance(item, str | dict):
        return item
    return {"preset": preset} | ({"name": item} if isinstance(item, str) else item)


def _told(error: ValidationError, data: list[dict[str, Any]]) -> list[str]:
    """Each mistake with the measure that it is in."""
    lines = []
    for found in error.errors():
        place = [str(part) for part in place_of(found)]
        if place[:1] == ["measures"] and len(place) > 1:
            place = [data[int(place[1])]["name"], *place[2:]]
        lines.append(f"{'.'.join(place)}: {found['msg']} (given: {found['input']!r:.80})")
    return lines


def _measure(item: Any, own: dict[str, Measure]) -> Measure:
    """A measure as the sweep file has it, where its name alone is given and is there; else with its defaults."""
    if isinstance(item, str) and item in own:
        return own[item]
    try:
        return MEASURES.parse(item)
    except ValidationError as error:
        lines = [f"--measures: {'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()]
        raise UserError("\n".join(lines)) from error
    except ValueError as error:
        raise UserError(f"--measures: {error}") from error


def _set(data: list[dict[str, Any]], setting: str) -> None:
    """Applies `key=value` to every measure that has the key, in place."""
    key, equals, text = setting.partition("=")
    if not equals:
        raise UserError(f"--set {setting}: give key=value, such as draws=20 or average_flatness.attack.steps=50")
    path = key.strip().split(".")
    chosen = [measure for measure in data if measure["name"] == path[0]]
    if chosen and len(path) > 1:
        path = path[1:]
    else:
        chosen = data
    hit = False
    for measure in chosen:
        place: Any = measure
        for part in path[:-1]:
            place = place.get(part) if isinstance(place, dict) else None
        if isinstance(place, dict) and path[-1] in place and path[-1] != "name":
            place[path[-1]] = _yaml(text, f"--set {setting}")
            hit = True
    if not hit:
        known = sorted({name for measure in chosen for name in measure if name != "name"})
        raise UserError(f"--set {setting}: no measure has the setting '{'.'.join(path)}'; {suggest(path[0], known)}")


def _yaml(text: str, where: str) -> Any:
    """What a text means, read as values in a sweep file are."""
    try:
        document = read_document(text)
    except NotYamlError as error:
        raise UserError(f"{where}: {error}") from error
    if document.problems:
        raise UserError(f"{where}: {document.problems[0].text}")
    return document.data


def remember(sweep: Sweep, evaluation: Evaluation) -> None:
    """Keeps an evaluation in the sweep's folder, under its id."""
    content = json.dumps(evaluation.model_dump(mode="json"), indent=2).encode()
    (Folder(sweep.storage) / sweep.name / FOLDER).write(f"{evaluation.evaluation_id}.json", content)


def recorded(sweep: Sweep) -> dict[str, Evaluation]:
    """Every evaluation of the sweep by id, its own first.

    Raises:
        UserError: one cannot be read; without it nobody knows what is still to be measured.
    """
    folder = Folder(sweep.storage) / sweep.name / FOLDER
    found = {sweep.evaluation.evaluation_id: sweep.evaluation}
    for name in folder.names():
        if name.endswith(".json"):
            evaluation = _read(folder, name)
            found.setdefault(evaluation.evaluation_id, evaluation)
    return found


def _read(folder: Folder, name: str) -> Evaluation:
    """One that `remember` kept under its id."""
    try:
        evaluation = Evaluation.model_validate_json(folder.read(name))
        problem = None if f"{evaluation.evaluation_id}.json" == name else "it is not the one that its name says"
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
    if problem:
        raise UserError(
            f"{folder}/{name} is damaged: {problem}; delete it; `flatsweep evaluate` with its settings keeps it again"
        )
    return evaluation


def analysis_folder(sweep: Sweep, evaluation: Evaluation) -> str:
    """Where its table and figures go, in the sweep's folder and among the artifacts."""
    own = evaluation.evaluation_id == sweep.evaluation.evaluation_id
    return ANALYSIS if own else f"{ANALYSIS}-{evaluation.evaluation_id[:SHOWN_DIGITS]}"


def with_evaluation(sweep: Sweep, prefix: str | None) -> Sweep:
    """The sweep with the recorded evaluation whose id begins with `prefix` in place of its own.

    Raises:
        UserError: there is none, or there are several.
    """
    if prefix is None:
        return sweep
    known = recorded(sweep)
    found = [evaluation for key, evaluation in known.items() if key.startswith(prefix)]
    if len(found) != 1:
        names = ", ".join(key[:SHOWN_DIGITS] for key in known)
        raise UserError(
            f"--evaluation {prefix}: {len(found)} evaluations of '{sweep.name}' begin so; recorded: {names}"
        )
    return sweep.model_copy(update={"evaluation": found[0]})


def only_measuring(evaluation: Evaluation) -> Callable[[Store, Plan], Plan]:
    """A `Prepare` of `submit`: the trained trials that lack a result of `evaluation`, and nothing to be trained."""

    def prepare(_store: Store, plan: Plan) -> Plan:
        remember(plan.sweep, evaluation)
        return measuring_plan(plan.sweep, evaluation, [entry.run for entry in plan.entries if entry.run])

    return prepare


def measuring_plan(sweep: Sweep, evaluation: Evaluation, runs: Sequence[TrialRun]) -> Plan:
    """What `evaluate` would do: every trained trial with a run, MEASURE where results are missing, else DONE."""
    wanted = sweep.model_copy(update={"evaluation": evaluation})
    entries = []
    for entry in make_plan(wanted, runs).entries:
        if entry.run is None or entry.traces.epoch < entry.trial.training.epochs:
            continue
        missing = missing_measures(entry.trial, evaluation, entry.traces)
        done = not missing and standing(entry.run, evaluation) == "finished"
        reason = f"to measure: {', '.join(missing)}" if missing else "to record"
        action, why = (Action.DONE, "measured") if done else (Action.MEASURE, reason)
        entries.append(replace(entry, action=action, reason=why, epochs_left=0))
    return Plan(wanted, tuple(entries), measure_only=True)


def standing(run: TrialRun, evaluation: Evaluation) -> str:
    """How an evaluation of a trial stands: '' where it has not begun, else as `workers.layout.evaluated_tag` says."""
    own = "finished" if run.evaluation_id == evaluation.evaluation_id else ""
    return run.tags.get(layout.evaluated_tag(evaluation.evaluation_id), own)
