"""Another L2 penalty than the optimizer's own."""

from orchestrator.spec import regularizers as spec
from orchestrator.spec.training import Optimizer


class WeightDecay:
    """Replaces the optimizer's weight decay."""

    def __init__(self, spec: spec.WeightDecay) -> None:
        self.value = spec.value

    def optimizer(self, settings: Optimizer) -> Optimizer:
        """The same settings with this weight decay."""
        return settings.model_copy(update={"weight_decay": self.value})
