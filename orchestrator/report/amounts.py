"""Numbers as people read them."""

import math
import re


def number(value: float | None, digits: int = 3) -> str:
    """So many significant digits; a dash where there is no number.

    >>> number(0.043251), number(None), number(12345.0)
    ('0.0433', '-', '12,345')
    """
    if value is None or not math.isfinite(value):
        return "-"
    if value and (abs(value) >= 1e6 or abs(value) < 1e-4):
        return f"{value:.{digits - 1}e}"
    decimals = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
    return f"{value:,.{min(max(decimals, 0), 6)}f}"


def signed(value: float) -> str:
    """Two decimals, with a minus sign as long as a digit is wide."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def unbroken(sentence: str) -> str:
    """With an interval, `0.77 [0.71, 0.82]`, kept on one line."""
    space = "\N{NO-BREAK SPACE}"
    return re.sub(r"(\S) \[(\S+), (\S+)\]", rf"\1{space}[\2,{space}\3]", sentence)


def duration(seconds: float | None) -> str:
    """Two units at most.

    >>> duration(3.24), duration(75), duration(7380), duration(200000)
    ('3.2 s', '1 min 15 s', '2 h 3 min', '2 d 7 h')
    """
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, lower, below in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            big, rest = divmod(whole, size)
            return f"{big} {unit} {rest // below} {lower}"
    return f"{whole} s"
