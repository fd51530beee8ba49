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
    for name, made in ((f"{page.stem}.png", light), (f"{page.stem}-dark-phone.png", beside(others))):
        # by octree: other palettes give the colours of the few small marks away
        made.quantize(256, Image.Quantize.FASTOCTREE).save(page.with_name(name), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
