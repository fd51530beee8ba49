"""A correlation result for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.formats import shown_p
from orchestrator.analysis.notes import DIRECTION
from orchestrator.analysis.results import Coefficient, CorrelationResult, Pair, Sensitivity, SignError
from orchestrator.analysis.rows import LeftOut, count

SIGNIFICANT = 0.05
NOISE = "sd: standard deviation, in the column's unit. A measure whose two are alike tells seeds apart, not cells."
NAMED = 6
"""Networks that a line names before it counts the rest."""


def render(result: CorrelationResult) -> RenderableType:
    """The answer, the matrix of all pairs, the numbers of the first target, seed noise, and the notes, for rich.

    Under each table stands how to read it.
    """
    target = result.targets[0]
    first = [pair for pair in result.pairs if pair.target == target]
    parts: list[RenderableType] = [Text(result.answer, style="bold")]
    parts += [Text(note) for note in result.notes if note == DIRECTION]
    if len(result.targets) > 1:
        parts += [*_titled("Every measure with every target"), _matrix(result), Text(_how(result))]
    parts += [*_titled(f"All coefficients with {target}"), _coefficients(first)]
    if len(result.targets) == 1:
        parts.append(Text(_how(result)))
    if any(pair.kendall.value is not None for pair in first):
        parts += [*_titled(f"How far to trust those with {target}"), *_beyond(first)]
    parts += [*_titled("Seed noise beside the differences between cells"), _spreads(result), Text(NOISE)]
    notes = [note for note in result.notes if note != DIRECTION]
    lines = [*_reasons(first), *notes, *_left_out_lines(result.left_out)]
    if lines:
        listed = Table.grid(padding=(0, 1))
        for line in lines:
            listed.add_row("-", Text(line))
        parts += [*_titled("To keep in mind"), listed]
    return Group(*parts)


def _titled(title: str) -> tuple[Text, Text]:
    return Text(), Text(title, style="bold")


def _how(result: CorrelationResult) -> str:
    """How to read brackets and stars."""
    return (
        f"In brackets the {100 * result.level:.3g} % bootstrap interval ({result.resamples} resamples of whole cells). "
        f"*: p below {SIGNIFICANT:g} after Holm's correction for {count(_tests(result.pairs), 'test')}."
    )


def render_groups(by: str, groups: Mapping[str, CorrelationResult]) -> RenderableType:
    """The groups of `correlate_by`, one under the other: the answer and the matrix or coefficients of each."""
    parts: list[RenderableType] = []
    for name, result in groups.items():
        parts += [Text(), Text(f"{by} = {name}", style="bold"), Text(result.answer)]
        parts.append(_matrix(result) if len(result.targets) > 1 else _coefficients(result.pairs))
    return Group(*parts)


def _matrix(result: CorrelationResult) -> Table:
    """Kendall's tau of every measure with every target."""
    names = [" ".join(target.split("_")[:-1]) + "\n" + target.split("_")[-1] for target in result.targets]
    table = _table("Kendall tau-b\nmeasure", names)
    by_key = {(pair.measure, pair.target): pair for pair in result.pairs}
    for measure in result.measures:
        pairs = [by_key[measure, target] for target in result.targets]
        taus = (_shown(pair.kendall, _star(pair)) for pair in pairs)
        table.add_row(*[Text(text) for text in (measure.replace("_xi", "\n_xi"), *taus)])
    return table


def _coefficients(pairs: Sequence[Pair]) -> Table:
    """All three coefficients; how many networks stand behind them only where that differs from line to line."""
    differ = len({(pair.networks, pair.cells) for pair in pairs}) > 1
    table = _table("measure", (*(("n\n(cells)",) if differ else ()), "Pearson r", "Spearman rho", "Kendall tau-b"))
    for pair in pairs:
        n = (f"{pair.networks}\n({pair.cells})",) if differ else ()
        values = (_shown(pair.pearson), _shown(pair.spearman), _shown(pair.kendall, _star(pair)))
        table.add_row(*[Text(text) for text in (pair.measure, *n, *values)])
        if pair.partial_pearson.value is not None or pair.partial_spearman.value is not None:
            partial = (_shown(pair.partial_pearson), _shown(pair.partial_spearman))
            given = "  given the training\n  robust loss"
            table.add_row(*[Text(text) for text in (given, *("" for _ in n), *partial, "")])
    return table


def _beyond(pairs: Sequence[Pair]) -> list[RenderableType]:
    """What keeps a coefficient from being read as more than it is, and what it is; columns without a value left out."""
    columns: dict[str, tuple[str, list[str]]] = {
        "p\n(Holm)": (
            "p: how often cells that are paired at random give as large a tau; Holm: corrected for all tests.",
            [f"{shown_p(pair.p.value)}\n({shown_p(pair.p.holm)})" for pair in pairs],
        ),
        "Psi": (
            "Psi: mean tau among networks that differ in one thing only, such as the method.",
            ["-" if (psi := pair.granulated.psi) is None else f"{psi:.2f}" for pair in pairs],
        ),
        "sign-error\nmax (90 %)": (
            "Sign-error: share of networks ordered wrongly, in the worst pair of settings; 0 never, 0.5 a coin.",
            [_wrong(pair.sign_error) for pair in pairs],
        ),
        "tau without\none method": (
            "Tau without one method: smallest and largest, and the method whose absence moves it most.",
            [_without(pair.sensitivity) for pair in pairs],
        ),
    }
    kept = {name: found for name, found in columns.items() if any(set(text) - set("-()\n") for text in found[1])}
    table = _table("measure", list(kept))
    for row, pair in enumerate(pairs):
        table.add_row(*[Text(text) for text in (pair.measure, *(texts[row] for _, texts in kept.values()))])
    return [table, *(Text(how) for how, _ in kept.values())]


def _wrong(item: SignError) -> str:
    return "-" if item.maximum is None else f"{item.maximum:.2f}\n({item.percentile_90:.2f})"


def _without(item: Sensitivity) -> str:
    return "-" if item.low is None else f"{item.low:.2f} to {item.high:.2f}\n({item.driver})"


def _spreads(result: CorrelationResult) -> Table:
    differ = len({(spread.networks, spread.cells) for spread in result.spreads}) > 1
    table = _table("column", (*(("n (cells)",) if differ else ()), "sd within cells", "sd between cells"))
    for spread in result.spreads:
        n = (f"{spread.networks} ({spread.cells})",) if differ else ()
        sds = ("-" if sd is None else f"{sd:.3g}" for sd in (spread.within_cell_sd, spread.between_cell_sd))
        table.add_row(*[Text(text) for text in (spread.column, *n, *sds)])
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
