import copy

import pytest
import torch
from toys import digits, trial

from workers.models.classifier import Classifier
from workers.steps import drain
from workers.training import Trainer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def _trained() -> Classifier:
    trainer = Trainer(trial("at", epochs=8), digits(), None, torch.device("cpu"))
    drain(trainer.run())
    return trainer.model


@pytest.fixture
def trained(_trained: Classifier) -> Classifier:
    """A network trained for a moment on digits; a test may change its copy."""
    return copy.deepcopy(_trained)
