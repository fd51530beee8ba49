"""A correlation result as rows of numbers, CSV, Markdown and LaTeX."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.analysis.results import Coefficient, CorrelationResult, Pair
from orchestrator.report.latex import escape

COEFFICIENTS = ("pearson", "spearman", "kendall", "partial_pearson", "partial_spearman")
HEADINGS = ("n (cells)", "Pearson r", "Spearman rho", "Kendall tau-b", "p (Holm)")
LATEX_HEADINGS = ("$n$ (cells)", "Pearson $r$", r"Spearman $\rho$", r"Kendall $\tau_b$", "$p$ (Holm)")

Groups = Mapping[str, CorrelationResult]
"""Results by name; the name of the whole is ''."""


def shown_p(p: float | None) -> str:
    """A p-value with two digits that count; `-` where there is none."""
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.2g}"


def flat_rows(groups: Groups) -> list[dict[str, Any]]:
    """One row per group, target and measure, with every number in a column of its own; None where there is none."""
    return [_flat(name, pair) for name, result in groups.items() for pair in result.pairs]


def as_csv(groups: Groups) -> str:
    """`flat_rows` as CSV, with a line of names."""
    rows = flat_rows(groups)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(groups: Groups) -> str:
    """A table per group and target, with intervals in brackets."""
    lines: list[str] = []
    for title, pairs in _tables(groups):
        lines += [f"**{title.replace('|', chr(92) + '|')}**", ""]
        lines += ["| " + " | ".join(("measure", *HEADINGS)) + " |", "|---" * (len(HEADINGS) + 1) + "|"]
        lines += ["| " + " | ".join((f"`{pair.measure}`", *_cells(pair, "{:.2f}".format))) + " |" for pair in pairs]
        lines.append("")
    lines += [_legend(result) for result in list(groups.values())[:1]]
    return "\n".join(lines) + "\n"


def as_latex(groups: Groups) -> str:
    r"""A booktabs table (`\usepackage{booktabs}`) with a block of rows per group and target."""
    lines = [r"\begin{tabular}{lrllll}", r"\toprule", _latex_row(("Measure", *LATEX_HEADINGS))]
    for title, pairs in _tables(groups):
        lines += [r"\midrule", rf"\multicolumn{{6}}{{l}}{{\emph{{{escape(title)}}}}} \\"]
        lines += [_latex_row((escape(pair.measure), *_cells(pair, _latex_number, _latex_p))) for pair in pairs]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [f"% {_legend(result)}" for result in list(groups.values())[:1]]
    return "\n".join(lines) + "\n"


def _flat(group: str, pair: Pair) -> dict[str, Any]:
    row: dict[str, Any] = {"group": group, "target": pair.target, "measure": pair.measure}
    row |= {"networks": pair.networks, "cells": pair.cells}
    for name in COEFFICIENTS:
        item: Coefficient = getattr(pair, name)
        row |= {name: item.value, f"{name}_low": item.low, f"{name}_high": item.high}
    row |= {"p": pair.p.value, "p_holm": pair.p.holm, "psi": pair.granulated.psi}
    row |= {
        "sign_error_max": pair.sign_error.maximum,
        "sign_error_90": pair.sign_error.percentile_90,
        "environments": pair.sign_error.environments,
        "kendall_without_low": pair.sensitivity.low,
        "kendall_without_high": pair.sensitivity.high,
        "driver": pair.sensitivity.driver,
        "reason": pair.kendall.reason,
    }
    return row


def _tables(groups: Groups) -> Iterator[tuple[str, Sequence[Pair]]]:
    """The pairs of every group and target, with a title."""
    for name, result in groups.items():
        for target in result.targets:
            title = f"{name}: {target}" if name else target
            yield title, [pair for pair in result.pairs if pair.target == target]


def _cells(pair: Pair, number: Callable[[float], str], p: Callable[[float | None], str] = shown_p) -> tuple[str, ...]:
    """What stands right of the measure."""
    shown = []
    for item in (pair.pearson, pair.spearman, pair.kendall):
        if item.value is None:
            shown.append("-")
        elif item.low is None or item.high is None:
            shown.append(number(item.value))
        else:
            shown.append(f"{number(item.value)} [{number(item.low)}, {number(item.high)}]")
    return f"{pair.networks} ({pair.cells})", *shown, p(pair.p.holm)


def _latex_number(value: float) -> str:
    return f"${value:.2f}$"


def _latex_p(p: float | None) -> str:
    return shown_p(p).replace("<", "$<$")


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _legend(result: CorrelationResult) -> str:
    return (
        f"Brackets: {100 * result.level:.3g} % bootstrap intervals over whole cells, {result.resamples} resamples; "
        "p: permutations of cells, Holm-corrected over all rows."
    )
