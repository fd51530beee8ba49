"""The page of the vocabulary is what the vocabulary says."""

from pathlib import Path

import pytest

from orchestrator.spec.reference import REGISTRIES, reference

PAGE = Path(__file__).parents[2] / "docs" / "sweep-file.md"


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text() == reference(), "run: python -m orchestrator.spec.reference > docs/sweep-file.md"


@pytest.mark.parametrize("registry", [registry for _, registry in REGISTRIES], ids=lambda registry: registry.kind)
def test_every_component_has_its_heading_and_parameters(registry) -> None:
    page = reference()
    for name, cls in registry.classes().items():
        section = page.split(f"### `{name}`\n", 1)[1].split("\n##", 1)[0]
        assert all(f"| `{field}` |" in section for field in cls.model_fields if field != "name")
