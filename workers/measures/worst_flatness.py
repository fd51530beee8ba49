"""Worst-case flatness of the robust loss (Stutz21; SCIENCE.md section 6)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec.measures import WorstFlatness
from orchestrator.spec.training import Attack
from workers.attacks import ascent_step, random_start
from workers.data.batches import to_unit
from workers.data.splits import Images, Splits
from workers.measures.average_flatness import random_directions
from workers.measures.flatness import examples_of, negative_flag
from workers.measures.result import Parts, Result
from workers.measures.robust_loss import robust_examples
from workers.modes import frozen
from workers.seeding import generator
from workers.steps import Steps, Tick, stepwise
from workers.weights import perturbed_tensors, restored, scaled_to


@stepwise
def worst_flatness(
    model: nn.Module,
    splits: Splits,
    settings: WorstFlatness,
    *,
    attack: Attack,
    seed: int,
    parts: Parts | None = None,
) -> Steps[Result]:
    """max_r RLoss(w + nu_r) - RLoss(w), with nu_r and the adversarial examples optimised together.

    Protocol `matched` [ours] attacks again at the final nu_r, with the reference's budget and random starts, so that
    xi = 0 gives exactly 0; `stutz21` takes the jointly optimised examples as they are, against 10 reference restarts.

    Args:
        model: from images in [0, 1] to logits.
        splits: the images.
        settings: xi, restarts, epochs, weight step, attack, protocol.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of first perturbations and random starts.
        parts: restarts that are done; those done now are added.

    Returns:
        For each xi the flatness in nats. Arrays: `restarts`, xi x restarts, each restart's increase.
    """
    parts = {} if parts is None else parts
    images, budget = examples_of(splits, settings), settings.attack.resolve(attack)
    if "reference" not in parts:
        found = yield from robust_examples.steps(
            model, images, settings.reference_attack(attack), settings.batch_size, seed
        )
        parts["reference"] = found.mean_loss()
    for xi in settings.xi:
        for restart in range(settings.restarts):
            if f"xi {xi:g} restart {restart}" not in parts:
                loss = yield from _climbed(model, images, settings, budget, seed, xi, restart)
                parts[f"xi {xi:g} restart {restart}"] = loss - parts["reference"]
    increases = torch.tensor(
        [[parts[f"xi {xi:g} restart {r}"] for r in range(settings.restarts)] for xi in settings.xi], dtype=torch.float64
    )
    # torch's maximum, unlike Python's, keeps a NaN
    values = {settings.key(xi): float(best) for xi, best in zip(settings.xi, increases.amax(1), strict=True)}
    flags = [flag for key, value in values.items() for flag in negative_flag(key, value, 0.0)]
    return Result(values, {"restarts": increases}, tuple(flags))


def _climbed(
    model: nn.Module, images: Images, settings: WorstFlatness, attack: Attack, seed: int, xi: float, restart: int
) -> Steps[float]:
    """Robust loss at the end of one joint ascent."""
    parameters = perturbed_tensors(model)
    with restored(parameters) as originals:
        joint = JointAscent(model, parameters, originals, images, attack, settings, xi)
        loss = yield from joint.run(restart, seed)
        if settings.protocol == "matched":
            attacked = yield from robust_examples.steps(model, images, attack, settings.batch_size, seed)
            loss = attacked.mean_loss()
    return loss


class JointAscent:
    """One restart: weights in the layer-wise ball around `originals` and adversarial examples climb the loss together.

    Args:
        model: the network, whose `parameters` are moved in place and left at the end of the climb.
        parameters: the tensors that are perturbed.
        originals: their values w_l, the centres of the balls.
        images: the examples.
        attack: ball, step and start of the examples.
        settings: epochs, weight step, batch size.
        xi: radius of the weights' balls relative to ||w_l||.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        originals: list[Tensor],
        images: Images,
        attack: Attack,
        settings: WorstFlatness,
        xi: float,
    ) -> None:
        self.model, self.parameters, self.originals, self.images = model, parameters, originals, images
        self.attack, self.settings = attack, settings
        norms = torch._foreach_norm(originals)
        self.radii, self.strides = torch._foreach_mul(norms, xi), torch._foreach_mul(norms, settings.step)

    def run(self, restart: int, seed: int) -> Steps[float]:
        """Climbs; returns the mean loss in nats at the final weights and examples."""
        self._start(restart, seed)
        x, y = to_unit(self.images.x), self.images.y
        adversarial = random_start(x, self.attack, generator(x.device, seed, "joint attack", restart))
        parts = [slice(low, low + self.settings.batch_size) for low in range(0, len(y), self.settings.batch_size)]
        steps = [ascent_step(x[part], self.attack) for part in parts]
        for epoch in range(self.settings.epochs):
            with frozen(self.model):
                for parameter in self.parameters:
                    parameter.requires_grad_(True)
                for part, step in zip(parts, steps, strict=True):
                    iterate = adversarial[part].clone().requires_grad_(True)
                    loss = F.cross_entropy(self.model(iterate), y[part])
                    gradient, *weight_gradients = torch.autograd.grad(loss, [iterate, *self.parameters])
                    self._climb(weight_gradients)
                    adversarial[part] = step(iterate.detach(), gradient)
            yield Tick(epoch + 1, self.settings.epochs)
        return float(torch.cat([self._losses(adversarial[part], y[part]) for part in parts]).double().mean())

    def _start(self, restart: int, seed: int) -> None:
        """w_l + xi * ||w_l|| * u_l * g_l / ||g_l|| with u_l uniform in [0, 1]."""
        directions = random_directions(self.originals, seed, restart)
        random = generator(self.originals[0].device, seed, "joint radius", restart)
        shares = torch.rand(len(directions), generator=random, device=self.originals[0].device)
        norms = torch._foreach_norm(self.originals)
        with torch.no_grad():
            rows = zip(self.parameters, self.originals, directions, shares, self.radii, norms, strict=True)
            for parameter, original, direction, share, radius, norm in rows:
                if norm > 0:
                    parameter.copy_(original + direction * (share * radius / norm))

    def _climb(self, gradients: list[Tensor]) -> None:
        """A step of relative length `settings.step` along each tensor's gradient, projected to the tensor's ball."""
        with torch.no_grad():
            moves = zip(self.parameters, scaled_to(gradients, self.strides), self.originals, self.radii, strict=True)
            for parameter, move, original, radius in moves:
                offset = parameter + move - original
                norm = offset.norm()
                parameter.copy_(original + offset * torch.where(norm > radius, radius / norm, 1.0))

    def _losses(self, x: Tensor, y: Tensor) -> Tensor:
        with frozen(self.model), torch.no_grad():
            return F.cross_entropy(self.model(x), y, reduction="none")
