"""Measuring networks that were not trained here: `flatsweep measure`, alone or beside the trials of a sweep."""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from orchestrator.errors import UserError
from orchestrator.evaluations import Changes, applied
from orchestrator.origins import note_external
from orchestrator.run_content import RunContent
from orchestrator.spec.base import place_of
from orchestrator.spec.data import DATA, Data
from orchestrator.spec.document import NotYamlError, read_document
from orchestrator.spec.external import External
from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Evaluation, Sweep
from orchestrator.spec.training import Attack, Ball
from orchestrator.versions import git_commit, source_tags

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.tracking import Store
    from workers.external import Found
    from workers.measurement import Measuring

Read = TypeVar("Read")


@dataclass(frozen=True)
class Request:
    """What the command line says, as it was typed. See the options of `flatsweep measure`."""

    model: str
    model_args: str | None = None
    checkpoint: Path | None = None
    key: str | None = None
    mean: str | None = None
    std: str | None = None
    data: str | None = None
    attack: str | None = None
    evaluation: Changes = field(default_factory=Changes)
    device: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What is measured on which images, with what in the place of the training attack."""

    data: Data
    attack: Attack
    evaluation: Evaluation


@dataclass(frozen=True)
class Measured:
    """values: by name. flags: of each measure that has any. run_id: of the run, where it was recorded."""

    values: dict[str, float]
    flags: dict[str, list[str]]
    run_id: str | None = None

    def plain(self) -> dict[str, float | None]:
        """The values as JSON has them: null for what is not finite."""
        return {key: value if math.isfinite(value) else None for key, value in self.values.items()}


def measure_alone(request: Request, console: "Console") -> Measured:
    """Measures a network and keeps nothing.

    Raises:
        UserError: an option that cannot be read, no such data, a network that cannot be loaded.
    """
    if request.data is None:
        raise UserError("--data is missing: the images to measure on, such as cifar10 or '{name: npz, path: x.npz}'")
    wanted = Wanted(_data(request.data), _attack(request.attack) or Attack(), applied(Evaluation(), request.evaluation))
    _check(wanted)
    from workers.external import measuring_steps

    model, splits = _loaded(request, wanted)
    found = _shown(measuring_steps(model, splits, wanted.evaluation, wanted.attack), console)
    return Measured(found.values, found.flags)


def measure_beside(request: Request, file: SweepFile, store: "Store", console: "Console") -> Measured:
    """Measures a network as the sweep measures its trials, and records it as one more run of the sweep.

    What has a result in the sweep's folder is not measured again. The run is made when everything is measured, and
    never says that it is running: a driver of the sweep, which closes what runs without a worker, lets it alone.

    Args:
        request: the network, and which of the sweep's data sets and attacks where it has several.
        file: the sweep.
        store: where it is recorded.
        console: where progress is shown.

    Raises:
        UserError: as `measure_alone`; or an option that would make the values incomparable.
    """
    if request.evaluation != Changes():
        raise UserError("--record-in measures what the sweep measures: leave --measures, --set, --preset, --seed out")
    if request.label is None:
        raise UserError("--label is missing: what the sweep's tables are to call this network")
    sweep = file.sweep
    parent = store.parent_run(sweep.name)
    if parent is None:
        raise UserError(f"nothing is recorded of sweep '{sweep.name}'; `flatsweep submit {file.words}` starts it")
    wanted = of_sweep(sweep, request)
    _check(wanted)
    from workers.external import recorded_steps
    from workers.storage import Folder
    from workers.training import weights_digest

    model, splits = _loaded(request, wanted)
    external = _named(request.label, weights_digest(model), wanted)
    folder = Folder(sweep.storage) / sweep.name / external.external_id
    found = _shown(recorded_steps(external, model, splits, wanted.evaluation, folder), console)
    return Measured(found.values, found.flags, _recorded(external, request, sweep.name, store, parent, folder))


def of_sweep(sweep: Sweep, request: Request) -> Wanted:
    """The sweep's evaluation, and its data set and attack: the only ones, or those that the options choose.

    Raises:
        UserError: there are several and none is chosen, or another one is.
    """
    trials = sweep.trials()
    data = _one("--data", _data(request.data) if request.data else None, [trial.data for trial in trials])
    attack = _one("--attack", _attack(request.attack), [trial.training.attack for trial in trials])
    return Wanted(data, attack, sweep.evaluation)


def _one(option: str, chosen: Read | None, of: Sequence[Read]) -> Read:
    different = list({repr(item): item for item in of}.values())
    if chosen is None and len(different) > 1:
        raise UserError(f"{option} is missing: the sweep has {len(different)}, and networks are compared on one")
    if chosen is None:
        return different[0]
    if chosen not in different:
        raise UserError(f"{option}: not one of the sweep's; networks are compared on the same")
    return chosen


def _named(label: str, weights: str, wanted: Wanted) -> External:
    try:
        return External(label=label, weights=weights, data=wanted.data, attack=wanted.attack)
    except ValidationError as error:
        raise UserError(f"--label: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


def _recorded(external: External, request: Request, sweep: str, store: "Store", parent: str, folder: Any) -> str:
    """Sends the network's journal to its run, which is made if it is not there; returns the run's id."""
    from orchestrator.sink import RunSink
    from workers.journal import Journal

    known = {run.trial_id: run.run_id for run in store.trial_runs(sweep)}
    run_id = known.get(external.external_id)
    if run_id is None:
        source = {"model": request.model, "checkpoint": request.checkpoint and request.checkpoint.name}
        source |= {"mean": request.mean, "std": request.std, "model_args": request.model_args}
        given = {key: str(value) for key, value in source.items() if value}
        tags = source_tags(git_commit(Path.cwd()))
        note_external(folder, tags, given)
        run_id = store.create_run(RunContent.of_external(external, given), sweep, parent, tags)
    RunSink(store.uri, run_id, folder).send(Journal(folder).records)
    return run_id


def _loaded(request: Request, wanted: Wanted) -> tuple[Any, Any]:
    """The network and the images, on the device."""
    import torch

    from workers.data.splits import load_splits
    from workers.failures import DataError
    from workers.loading import NetworkError, Source, as_classifier, load_network

    given = _yaml(request.model_args, "--model-args") if request.model_args else {}
    if not isinstance(given, dict):
        raise UserError("--model-args: expected a mapping, such as '{num_classes: 10}'")
    source = Source(request.model, given, request.checkpoint, request.key)
    try:
        device = torch.device(request.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        raise UserError(f"--device {request.device}: {str(error).splitlines()[0]}") from error
    torch.backends.cudnn.deterministic = True
    try:
        splits = load_splits(wanted.data, device)
        network = load_network(source)
        model = as_classifier(network, splits, _numbers(request.mean, "mean"), _numbers(request.std, "std"), device)
    except (NetworkError, DataError) as error:
        raise UserError(str(error)) from error
    return model, splits


def _shown(steps: "Generator[Measuring, None, Found]", console: "Console") -> "Found":
    """Runs to the end; a terminal sees where it stands."""
    with console.status("measuring") as status:
        try:
            while True:
                at = next(steps)
                status.update(f"{at.measure}: {at.tick.done} of {at.tick.total}")
        except StopIteration as stop:
            found: Found = stop.value
            return found
        finally:
            steps.close()


def _check(wanted: Wanted) -> None:
    """Refuses before anything heavy is imported what cannot be measured."""
    if obstacle := wanted.data.obstacle():
        raise UserError(f"--data: {obstacle}")
    for measure in wanted.evaluation.measures:
        ball = getattr(measure, "attack", None)
        if isinstance(ball, Ball):
            _valid(f"--measures: {measure.name}.attack", partial(ball.resolve, wanted.attack))


def _data(text: str) -> Data:
    given = _yaml(text, "--data")
    return _valid("--data", lambda: DATA.parse(given)).located(Path.cwd())


def _attack(text: str | None) -> Attack | None:
    if text is None:
        return None
    given = _yaml(text, "--attack")
    return _valid("--attack", lambda: Attack.model_validate(given))


def _numbers(text: str | None, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise UserError(f"--{option} {text}: expected numbers with commas, such as 0.49,0.48,0.45") from error


def _yaml(text: str, option: str) -> Any:
    try:
        document = read_document(text)
    except NotYamlError as error:
        raise UserError(f"{option}: {error.problem.text}") from error
    if document.problems:
        raise UserError(f"{option}: {document.problems[0].text}")
    return document.data


def _valid(option: str, read: Callable[[], Read]) -> Read:
    """What `read` gives; a mistake in it as one message for the option."""
    try:
        return read()
    except ValidationError as error:
        lines = []
        for found in error.errors():
            place = ".".join(str(part) for part in place_of(found))
            lines.append(f"{option}: {place + ': ' if place else ''}{found['msg']} (given: {found['input']!r:.80})")
        raise UserError("\n".join(lines)) from error
    except PydanticCustomError as error:
        raise UserError(f"{option}: {error.message()}") from error
