"""A correlation result for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.formats import shown_p
from orchestrator.analysis.results import Coefficient, CorrelationResult, Pair, Sensitivity, SignError
from orchestrator.analysis.rows import LeftOut, count

SIGNIFICANT = 0.05
NAMED = 6
"""Networks that a line names before it counts the rest."""


def render(result: CorrelationResult) -> RenderableType:
    """The answer, the matrix of all pairs, the numbers of the first target, seed noise, and the notes, for rich."""
    first = [pair for pair in result.pairs if pair.target == result.targets[0]]
    parts: list[RenderableType] = [Text(result.answer, style="bold"), Text()]
    if len(result.targets) > 1:
        parts += [_matrix(result), Text()]
    parts += [_coefficients(first), Text()]
    if any(pair.kendall.value is not None for pair in first):
        parts += [_beyond(first), Text()]
    parts += [_spreads(result), Text()]
    how = (
        f"Brackets: {100 * result.level:.3g} % bootstrap interval, {result.resamples} resamples of whole cells. "
        f"*: p below {SIGNIFICANT:g} after Holm's correction for {count(_tests(result.pairs), 'test')}."
    )
    lines = [how, *_reasons(first), *result.notes, *_left_out_lines(result.left_out)]
    return Group(*parts, *[Text(line) for line in lines])


def render_groups(by: str, groups: Mapping[str, CorrelationResult]) -> RenderableType:
    """The groups of `correlate_by`, one under the other: the answer and the matrix or coefficients of each."""
    parts: list[RenderableType] = []
    for name, result in groups.items():
        parts += [Text(), Text(f"{by} = {name}", style="bold"), Text(result.answer)]
        parts.append(_matrix(result) if len(result.targets) > 1 else _coefficients(result.pairs))
    return Group(*parts)


def _matrix(result: CorrelationResult) -> Table:
    """Kendall's tau of every measure with every target."""
    table = _table(f"Kendall tau-b\n{'measure':<10}", [target.replace("_", " ") for target in result.targets])
    by_key = {(pair.measure, pair.target): pair for pair in result.pairs}
    for measure in result.measures:
        pairs = [by_key[measure, target] for target in result.targets]
        table.add_row(*[Text(text) for text in (measure, *(_shown(pair.kendall, _star(pair)) for pair in pairs))])
    return table


def _coefficients(pairs: Sequence[Pair]) -> Table:
    """All three coefficients. Target and measure share a column, so that the table fits a terminal of 80 columns."""
    table = _table("target\n  measure", ("n\n(cells)", "Pearson r", "Spearman rho", "Kendall tau-b"))
    for pair in pairs:
        values = (_shown(pair.pearson), _shown(pair.spearman), _shown(pair.kendall, _star(pair)))
        texts = (f"{pair.target}\n  {pair.measure}", f"{pair.networks}\n({pair.cells})", *values)
        table.add_row(*[Text(text) for text in texts])
        if pair.partial_pearson.value is not None or pair.partial_spearman.value is not None:
            partial = (_shown(pair.partial_pearson), _shown(pair.partial_spearman))
            table.add_row(*[Text(text) for text in ("  given the training\n  robust loss", "", *partial, "")])
    return table


def _beyond(pairs: Sequence[Pair]) -> Table:
    """What keeps a coefficient from being read as more than it is; columns without any value are left out."""
    columns: dict[str, list[str]] = {
        "p\n(Holm)": [f"{shown_p(pair.p.value)}\n({shown_p(pair.p.holm)})" for pair in pairs],
        "Psi": ["-" if (psi := pair.granulated.psi) is None else f"{psi:.2f}" for pair in pairs],
        "sign-error\nmax (90 %)": [_wrong(pair.sign_error) for pair in pairs],
        "tau without\none method": [_without(pair.sensitivity) for pair in pairs],
    }
    kept = {name: texts for name, texts in columns.items() if any(set(text) - set("-()\n") for text in texts)}
    table = _table("measure", list(kept))
    for row, pair in enumerate(pairs):
        table.add_row(*[Text(text) for text in (pair.measure, *(texts[row] for texts in kept.values()))])
    return table


def _wrong(item: SignError) -> str:
    return "-" if item.maximum is None else f"{item.maximum:.2f}\n({item.percentile_90:.2f})"


def _without(item: Sensitivity) -> str:
    return "-" if item.low is None else f"{item.low:.2f} to {item.high:.2f}\n({item.driver})"


def _spreads(result: CorrelationResult) -> Table:
    table = _table("seed noise", ("n (cells)", "sd within cells", "sd between cells"))
    for spread in result.spreads:
        sds = ("-" if sd is None else f"{sd:.3g}" for sd in (spread.within_cell_sd, spread.between_cell_sd))
        table.add_row(*[Text(text) for text in (spread.column, f"{spread.networks} ({spread.cells})", *sds)])
    return table


def _table(first: str, others: Sequence[str]) -> Table:
    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "collapse_padding": True, "pad_edge": False}
    table = Table(**style)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right" if name.startswith(("n", "sd")) else "left")
    return table


def _reasons(pairs: Sequence[Pair]) -> Iterator[str]:
    """Why parts of the second table are empty, once each."""
    found: dict[str, None] = {}
    for pair in pairs:
        for what, item in (
            ("coefficient given the training robust loss", pair.partial_pearson),
            ("Psi", pair.granulated),
            ("sign-error", pair.sign_error),
            ("tau without one method", pair.sensitivity),
        ):
            if item.reason and pair.kendall.value is not None:  # a pair without a value has a note of its own
                found[f"No {what}: {item.reason}."] = None
        if pair.sign_error.maximum is not None:
            found[
                f"Sign-error of {pair.measure}: at worst {pair.sign_error.worst}; "
                f"{count(pair.sign_error.environments, 'environment')} kept, {pair.sign_error.dropped} dropped."
            ] = None
    yield from found


def _left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    """One line per column and reason, with the first trials; all are in the JSON."""
    groups: dict[tuple[str | None, str], list[str]] = {}
    for item in left_out:
        groups.setdefault((item.column, item.reason), []).append(f"{item.trial_id} ({item.label})")
    lines = []
    for (column, reason), who in groups.items():
        more = f" and {len(who) - NAMED} more" if len(who) > NAMED else ""
        of = f" of {column}" if column else ""
        lines.append(f"Left out{of}, {reason}, {count(len(who), 'network')}: {', '.join(who[:NAMED])}{more}.")
    return lines


def _tests(pairs: Sequence[Pair]) -> int:
    return sum(pair.p.value is not None for pair in pairs)


def _star(pair: Pair) -> str:
    return "*" if pair.p.holm is not None and pair.p.holm < SIGNIFICANT else ""


def _shown(item: Coefficient, mark: str = "") -> str:
    if item.value is None:
        return "-"
    interval = "" if item.low is None or item.high is None else f"\n[{item.low:.2f}, {item.high:.2f}]"
    return f"{item.value:.2f}{mark}{interval}"
