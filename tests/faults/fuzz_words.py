"""Fuzz targets: what people write. The sweep file, and conditions and settings on the command line."""

from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.where import where
from orchestrator.errors import UserError
from orchestrator.evaluations import Changes, applied
from orchestrator.spec.loading import MAX_BYTES, load_sweep_file
from orchestrator.spec.sweep import Evaluation, Sweep
from tests.faults.fuzz_mutations import TOKENS, bent, changed_yaml, nested
from tests.faults.fuzz_target import Target
from tests.faults.fuzz_watch import watched

ROOT = Path(__file__).parents[2]
SMALL = b"""name: x
data: {name: digits, train_size: 60}
training: {epochs: 2, attack: {eps: 8/255, steps: 1}, early_stopping: {}, keep_every: 1}
grid:
  methods: [at, {name: trades, beta: [1, 6]}, {name: awp, over: at}]
  regularizers: [none, [{name: label_noise, rate: 0.3}, {name: weight_decay, value: 5.0e-3}]]
  seeds: [0, 1]
  exclude: [{method: awp, regularizer: label_noise}]
evaluation: {measures: [robustness, {name: average_flatness, xi: [0.5], draws: 2}], checkpoints: [last, best, kept]}
profiles: {small: {training: {epochs: 1}}, other: {grid: {seeds: [3]}}}
"""
MAX_TRIALS = 50
"""Of more trials only the first ones' ids are asked for."""


@cache
def _sweep_files() -> list[bytes]:
    recipes = sorted((ROOT / "orchestrator/recipes").glob("*.yaml"))
    return [SMALL] * 24 + [path.read_bytes() for path in (ROOT / "experiments.yaml", *recipes)]


def _make_sweep(random: Random) -> bytes:
    if random.random() < 0.005:
        return nested(random)
    return _change_sweep(random, random.choice(_sweep_files()))


def _change_sweep(random: Random, content: bytes) -> bytes:
    kind = random.random()
    if kind < 0.55:
        content = changed_yaml(random, content)
    return content if kind < 0.45 else bent(random, content, _sweep_files())


def _check_sweep(content: bytes, folder: Path) -> bool:
    """Every line of an error names the file and a line that it has; a sweep is what it is when written and read."""
    path = folder / "s.yaml"
    path.write_bytes(content)
    last = len(content.decode(errors="replace").splitlines()) + 1  # YAML knows more ends of lines than editors do
    found: list[Sweep] = []
    with watched(folder):
        for profile in (None, "small"):
            try:
                found.append(load_sweep_file(path, profile).sweep)
            except UserError as error:
                _check_message(str(error), path, last, len(content))
    for sweep in found:
        again = Sweep.model_validate_json(sweep.model_dump_json())
        assert again == sweep
        trials = sweep.trials()
        ids = [trial.trial_id for trial in trials[:MAX_TRIALS]]
        assert [trial.trial_id for trial in again.trials()[:MAX_TRIALS]] == ids
        assert len(set(ids)) == len(ids)
    return bool(found)


def _check_message(message: str, path: Path, last: int, size: int) -> None:
    assert message.strip()
    for line in message.split("\n"):
        assert line.startswith(f"{path}:"), line
        assert all(char.isprintable() for char in line), ascii(line)
        number = line.removeprefix(f"{path}:").split(":")[0].strip()
        if number.isdigit():
            assert 1 <= int(number) <= last + 1, line
        else:
            assert number.startswith(("and ", "larger than")), line
            assert not number.startswith("larger") or size > MAX_BYTES


CONDITIONS = [
    b"method_name == 'at' and seed in [0, 1]",
    b"regularizer != 'none' and `average_flatness/xi=0.5` < 2",
    b"not (seed > 0 or robust_loss_gap <= -1e-3) and 1 < seed <= 2",
    b"`average_flatness/xi=0.5` == robust_loss_gap or method_name in ('at', \"trades\")",
    b"done == True and seed not in {1, 2}",
]
WORDS = [
    *(b"and ", b"or ", b"not ", b" in ", b" is ", b"lambda: 0", b"[x for x in y]", b"__import__('os')", b"f'{seed}'"),
    *(
        b"(",
        b")",
        b"==",
        b"!=",
        b"<",
        b"`",
        b"'",
        b'"',
        b"\\",
        b"seed",
        b"method_name",
        b"gone",
        b"-",
        b"~",
        b"**",
        b"9**9**9",
    ),
    *(
        b"'a'*10**9",
        b"(" * 300,
        b"not " * 900,
        b"-" * 1500,
        b"None",
        b"...",
        b":=",
        b";",
        b"@",
        b"\n",
        b"1j",
        b"b'x'",
        b"9" * 400,
    ),
]


@cache
def _table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method_name": ["at", "trades", None, "at"],
            "regularizer": ["none", "none", "cutout", "none"],
            "seed": [0, 1, 2, 3],
            "done": [True, False, True, True],
            "robust_loss_gap": [0.5, np.nan, np.inf, -0.1],
            "average_flatness/xi=0.5": [0.5, 1.0, 2.0, np.nan],
        }
    )


def _change_condition(random: Random, content: bytes) -> bytes:
    return bent(random, content, CONDITIONS, TOKENS if random.random() < 0.4 else WORDS)


def _check_condition(content: bytes, folder: Path) -> bool:
    """What is chosen are rows of the table, each once and in order, the same ones for the condition in brackets."""
    # as Python gives a program what was typed
    text, table = content.decode(errors="surrogateescape"), _table()
    with watched(folder):
        try:
            rows = where(table, text)
        except UserError as error:
            assert str(error)
            return False
    seeds = list(rows["seed"])
    assert seeds == sorted(set(seeds)) and set(seeds) <= set(table["seed"])
    if len(text) < 500 and not {"#", "\\"} & set(text):
        assert list(where(table, f"({text.strip()})")["seed"]) == seeds
        rest = list(where(table, f"not ({text.strip()})")["seed"])
        assert sorted(seeds + rest) == list(table["seed"])
    return True


SETTINGS = [
    b"set\0draws=20",
    b"set\0average_flatness.attack.steps=50",
    b"set\0xi=[0.5, 1/3]\0set\0robustness.train_examples=10",
    b"measures\0robustness,autoattack\0set\0examples=3",
    b"measures\0[robustness, {name: landscape, points: 5}]",
    b"measures\0- norms\n- {name: curvature}\0seed\x003",
    b"checkpoints\0last,best\0preset\0quick\0set\0eps=8/255",
]


@cache
def _evaluation() -> Evaluation:
    measures = ["robustness", {"name": "average_flatness", "xi": [0.5]}, {"name": "worst_flatness", "restarts": 1}]
    return Evaluation.model_validate({"measures": measures})


def _change_setting(random: Random, content: bytes) -> bytes:
    words = content.split(b"\0")
    place = random.randrange(len(words)) | 1
    if place < len(words):
        words[place] = bent(random, words[place], [word for other in SETTINGS for word in other.split(b"\0")])
        if random.random() < 0.2:
            key, _, value = words[place].partition(b"=")
            words[place] = key + b"=" + changed_yaml(random, value)
    if random.random() < 0.1:
        words += random.choice(SETTINGS).split(b"\0")
    return b"\0".join(words)


def _changes(content: bytes) -> Changes:
    words = content.decode(errors="surrogateescape").split("\0")
    given: dict[str, Any] = {"settings": ()}
    for key, text in zip(words[::2], words[1::2], strict=False):
        match key:
            case "set":
                given["settings"] += (text,)
            case "measures" | "preset" | "checkpoints":
                given[key] = text
            case "seed":
                given["seed"] = int(text) if text.isascii() and text.lstrip("-").isdigit() and len(text) < 30 else None
    return Changes(**given)


def _check_setting(content: bytes, folder: Path) -> bool:
    """An evaluation is what it is when written and read; what is asked for twice is the same as once."""
    changes = _changes(content)
    with watched(folder):
        try:
            found = applied(_evaluation(), changes)
        except UserError as error:
            assert str(error)
            return False
    again = Evaluation.model_validate_json(found.model_dump_json())
    assert again == found and again.evaluation_id == found.evaluation_id
    return True


TARGETS = {
    "sweep": Target(_make_sweep, _check_sweep),
    "where": Target(lambda random: _change_condition(random, random.choice(CONDITIONS)), _check_condition),
    "set": Target(lambda random: _change_setting(random, random.choice(SETTINGS)), _check_setting),
}
