"""The vocabulary as a page: every name with its parameters, defaults and ranges, from the classes themselves.

python -m orchestrator.spec.reference > docs/sweep-file.md
"""

import inspect
import json
from typing import Any

from orchestrator.spec.base import Component, Registry, Spec
from orchestrator.spec.data import DATA
from orchestrator.spec.measures import MEASURES
from orchestrator.spec.methods import METHODS
from orchestrator.spec.models import MODELS
from orchestrator.spec.regularizers import REGULARIZERS
from orchestrator.spec.resources import Resources
from orchestrator.spec.sweep import Evaluation, Exclude, Grid, Sweep, Tracking
from orchestrator.spec.training import OPTIMIZERS, SCHEDULES, Attack, Ball, EarlyStopping, EvaluationAttack, Training

HEAD = """# The sweep file

This page is made from the vocabulary itself by `python -m orchestrator.spec.reference`; a test keeps it up to date.
A component is given by its name, or as a mapping with `name` and parameters. Inside `data`, `model`, `training`,
`grid.methods` and `grid.regularizers` a parameter given as a list is one more axis of the grid. Numbers may be written
as fractions, `8/255`.

## Profiles

A sweep file may hold named sets of changes to itself, one of which `--profile NAME` applies, before the axes expand:

```yaml
name: cifar
data: {name: cifar10, root: data}
training: {epochs: 200, attack: {eps: 8/255, steps: 10}}
grid: {methods: [at, trades], seeds: [0, 1, 2]}
profiles:
  small:
    data: digits                              # another data set: replaces
    training: {epochs: 10, attack: {steps: 3}}  # merges: eps is still 8/255
    grid: {seeds: [0]}                        # merges: the methods are still two
```

Mappings merge key by key; anything else replaces: numbers, texts, lists as wholes, and a component given by another
`name`. The sweep of a profile is called `<name>-<profile>`, here `cifar-small`, unless the profile gives a `name`, so
that its runs never mix with the full ones. What a profile changes is checked when the profile is asked for.

## Several grids

`grid` may be a list of grids, whose trials are united. Each may have `data`, `model` and `training` of its own, which
are merged into the file's by the same rules:

```yaml
grid:
  - methods: [at, {name: trades, beta: [1, 3, 6]}]       # methods
    seeds: [0]
  - methods: [at]                                        # regularisers, for at alone
    regularizers: [{name: label_noise, rate: [0.1, 0.3]}]
    seeds: [0]
  - methods: [at]                                        # attacks, for at alone
    training: {attack: {steps: [1, 3, 7]}}
    seeds: [0]
```
"""

REGISTRIES: tuple[tuple[str, Registry[Any]], ...] = (
    ("Training methods (`grid.methods`)", METHODS),
    ("Regularisers (`grid.regularizers`)", REGULARIZERS),
    ("Measures (`evaluation.measures`)", MEASURES),
    ("Networks (`model`)", MODELS),
    ("Data sets (`data`)", DATA),
    ("Optimizers (`training.optimizer`)", OPTIMIZERS),
    ("Schedules (`training.schedule`)", SCHEDULES),
)
SECTIONS: tuple[tuple[str, type[Spec]], ...] = (
    ("Top level", Sweep),
    ("`training`", Training),
    ("`training.attack`", Attack),
    ("`training.early_stopping`", EarlyStopping),
    ("`grid`", Grid),
    ("`grid.exclude`", Exclude),
    ("`evaluation`", Evaluation),
    ("`attack` of a measure", EvaluationAttack),
    ("`attack` of `autoattack`", Ball),
    ("`resources`", Resources),
    ("`tracking`", Tracking),
)


def reference() -> str:
    """The whole page in Markdown."""
    parts = [HEAD, "\n## Sections\n"]
    for title, spec in SECTIONS:
        parts += [f"\n### {title}\n", f"\n{inspect.getdoc(spec)}\n", _parameters(spec)]
    for title, registry in REGISTRIES:
        parts.append(f"\n## {title}\n")
        for name, cls in registry.registered().items():
            parts += [f"\n### `{name}`\n", f"\n{inspect.getdoc(cls)}\n", _parameters(cls)]
    return "".join(parts)


def _parameters(spec: type[Spec]) -> str:
    rows = []
    for name, field in spec.model_fields.items():
        if name == "name" and issubclass(spec, Component):
            continue
        default = "required" if field.is_required() else f"`{_default(field.get_default(call_default_factory=True))}`"
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {text} |\n")
    return "".join(["\n| parameter | default | |\n|---|---|---|\n", *rows]) if rows else ""


def _default(value: Any) -> str:
    if isinstance(value, Component):
        return value.name
    if isinstance(value, Spec):
        return "see its section"
    if isinstance(value, tuple):
        return f"[{', '.join(_default(item) for item in value)}]"
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value) if value is None or isinstance(value, bool | str) else str(value)


if __name__ == "__main__":
    print(reference(), end="")
