"""Pictures of a report for the docs: the page as a desktop shows it, and beside one another dark, phone and dark phone.

python -m tests.report.pictures docs/results/digits.html
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.report.browser import Browser, browsing

TALL = 1500
"""Pixels of every picture from the top of the page."""
WIDE = 1400
"""Pixels of the row of pictures."""


def picture(browser: Browser, page: Path, file: Path, width: int, dark: bool, touch: bool = False) -> Image.Image:
    """The top of the page."""
    browser.screen(width, TALL, dark, touch)
    browser.open(page)
    browser.shoot(file, whole=False)
    return Image.open(file).convert("RGB")


def beside(pictures: list[Image.Image], gap: int = 24) -> Image.Image:
    """Pictures of one height in a row."""
    width = sum(each.width for each in pictures) + gap * (len(pictures) - 1)
    row = Image.new("RGB", (width, TALL), "white")
    left = 0
    for each in pictures:
        row.paste(each, (left, 0))
        left += each.width + gap
    return row


def main(page: Path) -> None:
    """Writes `<page>.png` and `<page>-dark-phone.png` beside the page."""
    with tempfile.TemporaryDirectory() as folder, browsing(Path(folder)) as browser:
        file = Path(folder) / "shot.png"
        light = picture(browser, page, file, 1200, dark=False)
        others = [picture(browser, page, file, 1200, dark=True)]
        others += [picture(browser, page, file, 390, dark, touch=True) for dark in (False, True)]
    row = beside(others)
    row = row.resize((WIDE, row.height * WIDE // row.width), Image.Resampling.LANCZOS)
    for name, made in ((f"{page.stem}.png", light), (f"{page.stem}-dark-phone.png", row)):
        made.save(page.with_name(name), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
