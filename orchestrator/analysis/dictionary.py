"""The data dictionary of tables: every column with its type, unit, meaning and where it comes from.

python -m orchestrator.analysis.dictionary > docs/table.md
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from orchestrator.analysis.columns import (
    COST,
    OF_SEVERAL,
    PROVENANCE,
    SETTING,
    SETTINGS,
    SOURCES,
    STATE,
    STATES,
    TRAINED,
    TRAINING,
    Column,
    about,
    columns_of,
)
from orchestrator.errors import UserError
from orchestrator.spec import curvature_measures, landscape_measures, network_measures  # noqa: F401  (they register)
from orchestrator.spec.measures import MEASURES, Measure, value_keys
from orchestrator.spec.sweep import Evaluation

HEAD = """# The columns of a table

`flatsweep export` and `load_sweep` give one row for each trial and network measured. `describe(table)` says what is
here of a table's own columns, and so does the last section of a report. This page is made from the vocabulary itself by
`python -m orchestrator.analysis.dictionary`; a test keeps it up to date.

Text is '' and a number is absent where nothing is recorded. Whole numbers and numbers are 64 bits wide.
"""
MEASURED = """
## Values of measures

With the measure's default settings; others change the names, such as those with a radius in them. `<name>_se` is a
value's standard error, in the same unit.
"""


@dataclass(frozen=True)
class Group:
    """Columns of one origin, with what is known of all of them."""

    name: str
    text: str
    columns: tuple[Column, ...]


def describe(table: pd.DataFrame, evaluation: Evaluation | None = None) -> pd.DataFrame:
    """What the columns of a table mean.

    Args:
        table: as `load_sweep` gives it.
        evaluation: what was measured; what the table's `attrs` say if not given.

    Returns:
        A row per column of the table, in its order, with the columns `type` (text, whole number or number), `unit` (''
        where there is none, or only the meaning says it), `meaning`, `source` (where it comes from) and `measure`, the
        name of the measure whose value it is, or ''.

    Raises:
        UserError: the table does not say what was measured: an operation of pandas has dropped its `attrs`.
    """
    if evaluation is None and "measures" not in table.attrs:
        raise UserError("the table has lost its attrs, which say what was measured: describe it before it is changed")
    given = table.attrs["measures"] if evaluation is None else evaluation.measures
    measures = [MEASURES.parse(each) if isinstance(each, dict) else each for each in given]
    texts = {measure.name: about(measure) for measure in measures}
    rows = [
        {
            "type": found.type,
            "unit": found.unit,
            "meaning": " ".join(filter(None, (found.meaning, texts.get(found.group)))),
            "source": found.source,
            "measure": found.group if found.group in texts else "",
        }
        for found in columns_of(map(str, table), measures)
    ]
    return pd.DataFrame(rows, index=pd.Index(list(table), name="column"))


def groups(table: pd.DataFrame, measures: Sequence[Measure]) -> list[Group]:
    """Every column of a table, in its order, by origin.

    Args:
        table: as `analysis.table.trial_table` makes it.
        measures: of the evaluation; their docstrings say what their values are.
    """
    texts = {measure.name: about(measure) for measure in measures}
    found: dict[str, list[Column]] = {}
    for each in columns_of(map(str, table), measures):
        found.setdefault(each.group, []).append(each)
    return [Group(name, texts.get(name, ""), tuple(members)) for name, members in found.items()]


def page() -> str:
    """docs/table.md: the columns of every table, and those of every measure with its default settings."""
    costs = columns_of(
        ("cost_train_seconds", "cost_repeated_seconds", "cost_robustness_seconds", "cost_robustness_passes"), ()
    )
    fixed = {
        SETTING: [OF_SEVERAL, *SETTINGS.values()],
        STATE: STATES.values(),
        TRAINING: TRAINED.values(),
        COST: costs,
        PROVENANCE: [*SOURCES.values(), *columns_of(("ray_version",), ())],
    }
    parts = [HEAD, *(f"\n## {name}\n\nFrom {_origin(found)}.\n\n{_table(found)}" for name, found in fixed.items())]
    parts.append(MEASURED)
    for name in MEASURES.names():
        measure = MEASURES.parse(name)
        found = [each for each in columns_of(value_keys([measure]), [measure]) if not each.name.endswith("_se")]
        parts.append(f"\n### `{name}`\n\n{about(measure)}\n\n{_table(found)}")
    return "".join(parts)


def _origin(found: Iterable[Column]) -> str:
    return next(iter(found)).source


def _table(found: Iterable[Column]) -> str:
    rows = [f"| `{each.name}` | {each.type} | {each.unit} | {each.meaning} |\n" for each in found]
    return "| column | type | unit | meaning |\n|---|---|---|---|\n" + "".join(rows)


if __name__ == "__main__":
    print(page(), end="")
