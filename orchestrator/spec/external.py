"""A network that was not trained here: what its run and its row in tables are called."""

import re
from typing import Annotated

from pydantic import AfterValidator

from orchestrator.spec.base import Spec, digest
from orchestrator.spec.data import DATA, Data
from orchestrator.spec.training import Attack

METHOD = "external"
"""The method's name where there is none: nothing of that name can be trained."""
LABEL_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,59}")


def _plain(label: str) -> str:
    if not LABEL_PATTERN.fullmatch(label):
        raise ValueError(f"'{label}' is no plain label: use letters, digits, '.', '_', '+' and '-' only, at most 60")
    return label


class External(Spec):
    """A network, and what it is measured with: everything but the measures themselves."""

    label: Annotated[str, AfterValidator(_plain)]
    """What tables call it: letters, digits, '.', '_', '+', '-'."""
    weights: str
    """SHA-256 over its state dict, in hex."""
    data: Annotated[Data, DATA]
    """The images that it is measured on."""
    attack: Attack
    """What stands in the place of the training attack."""

    @property
    def external_id(self) -> str:
        """What stands in the place of a trial's id."""
        return digest({METHOD: self})

    @property
    def method(self) -> str:
        """What stands in the place of the method: networks of one label are one cell."""
        return f"{METHOD}(label={self.label})"
