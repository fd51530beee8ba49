"""Labels on their way through a training step: class indices, and probabilities where a regulariser softens them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the usual name)


@dataclass(frozen=True)
class Labels:
    """Labels of a batch of B images in C classes.

    index: int64, B. What attacks and margins use.
    probabilities: float, B x C, rows sum to 1; None where they are one-hot. What cross-entropies use.
    """

    index: Tensor
    classes: int
    probabilities: Tensor | None = None

    def relabelled(self, index: Tensor) -> "Labels":
        """The same batch with other class indices; in soft labels the old and the new class change places."""
        p = self.probabilities
        if p is not None:
            old, new = self.index[:, None], index[:, None]
            p = p.scatter(1, old, p.gather(1, new)).scatter(1, new, p.gather(1, old))
        return replace(self, index=index, probabilities=p)

    def softened(self, amount: float) -> "Labels":
        """Probabilities (1 - amount) * p + amount / C."""
        return replace(self, probabilities=self._soft() * (1 - amount) + amount / self.classes)

    def mixed(self, order: Tensor, weight: float) -> "Labels":
        """weight * own + (1 - weight) * those of the images `order`, B; the index is that of the larger share."""
        p = self._soft()
        index = self.index if weight >= 0.5 else self.index[order]
        return replace(self, index=index, probabilities=weight * p + (1 - weight) * p[order])

    def _soft(self) -> Tensor:
        """The probabilities, one-hot where none were set."""
        p = self.probabilities if self.probabilities is not None else F.one_hot(self.index, self.classes)
        return p.to(torch.get_default_dtype())

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Mean cross-entropy of logits B x C, in nats."""
        target = self.index if self.probabilities is None else self.probabilities.to(logits.dtype)
        return F.cross_entropy(logits, target)
