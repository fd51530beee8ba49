"""Labelled and pseudo-labelled images together (robust self-training, Carmon et al. 2019, arXiv 1905.13736)."""

from orchestrator.spec import methods as spec
from workers.methods.wrapped import Wrapped


class Unlabeled(Wrapped):
    """Attack and loss of the method underneath on the whole batch; `TrainingBatches` mixes the images in.

    Labelled and pseudo-labelled images count alike in the loss, as in Carmon et al. with weight 1.
    """

    def __init__(self, spec: spec.Unlabeled) -> None:
        super().__init__(spec.over)
