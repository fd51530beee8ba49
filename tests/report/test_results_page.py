"""The report in docs/results: small, of no machine, and what the page that explains it says."""

import re
from pathlib import Path

from tests.report.parsed import parse

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PAGE = (RESULTS / "digits.html").read_text(encoding="utf-8")


def test_it_is_small_and_names_no_folder_of_a_machine() -> None:
    assert len(PAGE.encode()) < 500_000
    assert not re.findall(r"(?:sqlite:/|file:/|/home/|/root/|/Users/|/tmp/|/mnt/|[A-Z]:\\)[^\s<\"]*", PAGE)
    provenance = parse(PAGE).one("section", id="provenance").text
    assert "sqlite: <storage>/mlflow.db" in provenance and "host 1" in provenance


def test_the_explanation_quotes_it() -> None:
    sentence = parse(PAGE).one(class_="sentence").text.replace("\N{NO-BREAK SPACE}", " ")
    text = (RESULTS / "README.md").read_text()
    assert f"> {sentence.replace(chr(0x3BE), 'xi')}\n" in text
    assert all((RESULTS / name).exists() for name in re.findall(r"\]\(([\w./-]+)\)", text))
    assert parse(PAGE).one("pre").text.split() == (RESULTS.parents[1] / "experiments.yaml").read_text().split()
