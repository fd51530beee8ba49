"""Renders the page: one HTML file with its style, script and data inside, and nothing to load from anywhere."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib.resources import files

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator import __version__
from orchestrator.analysis.columns import words
from orchestrator.analysis.correlation import CorrelationResult, LeftOut, count
from orchestrator.analysis.dictionary import groups
from orchestrator.report import amounts, cells
from orchestrator.report.files import Landscape
from orchestrator.report.headline import conclude, scope, states
from orchestrator.report.plots import Curves, payload
from orchestrator.report.provenance import Fact
from orchestrator.spec.measures import Measure

PACKAGE = "orchestrator.report"
STYLES = ("base.css", "parts.css", "print.css")
SCRIPTS = ("basics.js", "scales.js", "colours.js", "frame.js", "legend.js", "scatter.js", "curves.js", "page.js")
"""In the order in which they stand in the page, as one function: each uses those before it."""


@dataclass(frozen=True)
class Source:
    """What a page is made from."""

    name: str
    """Of the sweep, or of all, `a + b`."""
    table: pd.DataFrame
    """As `analysis.table.trial_table` makes it; of several sweeps, each trial once."""
    measures: Sequence[Measure]
    """Of the evaluation."""
    texts: Mapping[str, str]
    """Of the sweep files, by the name of the sweep."""
    stores: Sequence[str]
    """Addresses of the tracking stores, without passwords."""
    made: datetime
    run_base: str | None = None
    """What stands before a run's id in the address of its page; None where there is no such page."""
    facts: Sequence[Fact] = ()
    training: Mapping[str, Curves] = field(default_factory=dict)
    """Trial id -> what training recorded after each epoch."""
    landscapes: Sequence[Landscape] = ()
    landscapes_left: Sequence[str] = ()
    """Names of figures that were too large together."""
    result: CorrelationResult | None = None
    """Of `correlate` over the table, where it is known already."""
    mixed: Sequence[str] = ()
    """What differs among the trials, and trials that are there more than once, as lines."""
    refused: Sequence[str] = ()
    """Why the trials may not be compared; then there is no answer."""


def html(source: Source) -> str:
    """The whole page."""
    table = source.table
    conclusion = conclude(table, source.result, source.refused)
    script = _script()
    data = payload(table, conclusion, source.training, source.run_base)
    return _environment().get_template("page.html").render(
        source=source,
        version=__version__,
        conclusion=conclusion,
        scope=scope(table),
        states=states(table),
        left_out=_left_out(conclusion.result.left_out if conclusion.result else ()),
        data=data,
        matrix=cells.matrix(table),
        failures=cells.failures(table),
        flags=cells.flags(table),
        costs=cells.costs(table),
        dictionary=groups(table, source.measures),
        style="\n".join(_text(name) for name in STYLES),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def _left_out(items: Sequence[LeftOut]) -> list[tuple[str, str, list[str]]]:
    """(column, reason, networks), as one line each."""
    groups: dict[tuple[str, str], list[str]] = {}
    for item in items:
        groups.setdefault((item.column or "every column", item.reason), []).append(item.label)
    return [(column, reason, labels) for (column, reason), labels in groups.items()]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": amounts.number, "duration": amounts.duration, "words": words}
    environment.filters |= {"signed": amounts.signed, "unbroken": amounts.unbroken}
    environment.globals |= {"count": count, "MARKS": cells.MARKS}
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


@cache
def _script() -> str:
    """All scripts as one function, so that they leave no names behind."""
    inside = "\n".join(_text(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{inside}\n}})();\n'


def _text(name: str) -> str:
    return (files(PACKAGE) / "templates" / name).read_text(encoding="utf-8")
