"""MART: misclassification-aware adversarial training (Wang et al., ICLR 2020)."""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec import methods as spec
from workers.labels import Labels
from workers.methods.adversarial import attack_cross_entropy
from workers.methods.base import Loss
from workers.methods.trades import kl


class Mart:
    """BCE(p(x_adv), y) + beta * mean[KL(p(x) || p(x_adv)) * (1 - p_y(x))].

    BCE = -log p_y(x_adv) - log(1 - max_{k != y} p_k(x_adv)). Softened labels enter its first term; the margin and the
    weight 1 - p_y use the class index [ours].
    """

    attack = staticmethod(attack_cross_entropy)

    def __init__(self, spec: spec.Mart) -> None:
        self.beta = spec.beta

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """Clean and adversarial images go through the network one after the other, as in the authors' code."""
        clean, adversarial = model(x), model(x_adv)
        boosted = labels.cross_entropy(adversarial) + _margin_term(adversarial, labels.index).mean()
        p_y = F.softmax(clean, dim=1).gather(1, labels.index[:, None]).squeeze(1)
        return Loss(boosted + self.beta * (kl(clean, adversarial) * (1 - p_y)).mean(), adversarial)


def _margin_term(logits: Tensor, y: Tensor) -> Tensor:
    """-log(1 - max_{k != y} p_k) per example, B: a difference of log-sum-exps, so it never takes the log of a zero."""
    of_y = F.one_hot(y, logits.shape[1]).bool()
    rival = logits.masked_fill(of_y, float("-inf")).argmax(1, keepdim=True)
    others = logits.scatter(1, rival, float("-inf"))
    return logits.logsumexp(1) - others.logsumexp(1)
