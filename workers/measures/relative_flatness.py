"""Relative flatness of the layer that makes the logits (Petzka et al. 2021, arXiv 2001.00939; SCIENCE.md section 7)."""

import math

import torch
from torch import Tensor, nn

from orchestrator.spec.curvature_measures import RelativeFlatness
from orchestrator.spec.training import Attack
from workers.data.splits import Splits
from workers.measures.fixed_examples import fixed_examples, unmeasured
from workers.measures.result import Parts, Result, standard_error
from workers.modes import frozen
from workers.steps import Steps, Tick, stepwise


@stepwise
def relative_flatness(
    model: nn.Module,
    splits: Splits,
    settings: RelativeFlatness,
    *,
    attack: Attack,
    seed: int,
    parts: Parts | None = None,  # noqa: ARG001  (after the attack there is one forward pass)
) -> Steps[Result]:
    """sum_{s,s'} <w_s, w_s'> Tr(H_{s,s'}), w_s row s of the last linear layer, H_{s,s'} the block of its Hessian.

    For cross-entropy the block is the mean over examples of (p_s [s = s'] - p_s p_s') phi phi^T, phi the features, so
    that the sum is the mean of ||phi||^2 (sum_s p_s ||w_s||^2 - ||sum_s p_s w_s||^2), and is never negative. The
    robust loss is taken at adversarial examples that are found at w and do not move with the weights.

    Args:
        model: from images in [0, 1] to logits, which its last linear layer makes.
        splits: the images.
        settings: loss and images.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of the attack's random starts.
        parts: not used.

    Returns:
        `relative_flatness` (small is flat) and its standard error over examples. Arrays: `relative_flatness`,
        one value per example.

    Raises:
        ValueError: the logits are not what the last linear layer gives.
    """
    examples = yield from fixed_examples.steps(model, splits, settings, attack, seed)
    if not math.isfinite(examples.loss):
        return unmeasured(settings, examples)
    found = []
    batches = range(0, len(examples.y), settings.batch_size)
    for number, low in enumerate(batches):
        found.append(_of_examples(model, examples.x[low : low + settings.batch_size]))
        yield Tick(number + 1, len(batches))
    each = torch.cat(found)
    key = settings.key("relative_flatness")
    return Result({key: float(each.mean()), key + "_se": standard_error(each)}, {"relative_flatness": each})


def _of_examples(model: nn.Module, x: Tensor) -> Tensor:
    """Each example's share, N, float64."""
    layer = last_linear(model)
    caught: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _layer, inputs, output: caught.append((inputs[0], output)))
    try:
        with frozen(model), torch.no_grad():
            logits = model(x)
    finally:
        hook.remove()
    if len(caught) != 1 or not torch.equal(caught[0][1], logits):
        raise ValueError("relative flatness needs a network whose last linear layer makes the logits")
    p, features = logits.double().softmax(1), caught[0][0].double()
    gram = layer.weight.detach().double()
    gram = gram @ gram.T
    spread = p @ gram.diagonal() - ((p @ gram) * p).sum(1)
    shares: Tensor = features.square().sum(1) * spread
    return shares


def last_linear(model: nn.Module) -> nn.Linear:
    """The last linear layer that is no head beside the classifier.

    Raises:
        ValueError: there is none.
    """
    heads = {id(module) for module in getattr(model, "heads", nn.ModuleDict()).modules()}
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and id(module) not in heads]
    if not layers:
        raise ValueError("relative flatness needs a network with a linear layer")
    return layers[-1]
