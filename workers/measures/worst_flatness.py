"""Worst-case flatness of the robust loss (Stutz21; SCIENCE.md section 6)."""

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec.measures import WorstFlatness
from orchestrator.spec.training import Attack
from workers.attacks import ascent_step, random_start
from workers.data.batches import to_unit
from workers.data.splits import Images, Splits
from workers.folding import folded
from workers.measures.flatness import (
    WHOLE,
    array_name,
    groups,
    images_of,
    layer_key,
    level_name,
    levels,
    levels_at,
    negative_flag,
    random_directions,
)
from workers.measures.result import Parts, Result
from workers.measures.robust_loss import at_inputs, robust_examples
from workers.seeding import generator
from workers.steps import Steps, Tick, stepwise
from workers.weights import norms, perturbed_tensors, restored, scaled_to

CLIMBS_THE_LOSS = "the ascent climbs the loss, not the error"


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
        settings: xi, restarts, epochs, weight step, attack, protocol, what is relative to what.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of first perturbations and random starts.
        parts: restarts that are done; those done now are added.

    Returns:
        For each xi the flatness in nats; for the error a fraction, the largest that a climb of the loss ended at.
        Arrays: `restarts`, xi x restarts, each restart's increase, with an ending for each of several columns;
        `<value>_layer_<tensor>`, restarts, the increase where only that tensor was perturbed.
    """
    parts = {} if parts is None else parts
    sets, budget = images_of(splits, settings), settings.attack.resolve(attack)
    if "at w" not in parts:
        parts["at w"] = yield from levels(model, sets, settings, settings.reference_attack(attack), seed)
    tensors = perturbed_tensors(model)
    together = groups(model, tensors, settings)
    for xi, restart in itertools.product(settings.xi, range(settings.restarts)):
        for group, places in together.items():
            for name, images in sets.items():
                if (part := _part(group, xi, restart, name)) not in parts:
                    joint = JointAscent(model, tensors, places, images, settings, budget, xi)
                    parts[part] = yield from _climbed(joint, name, restart, seed)
    return _result(parts, together, settings)


def _part(group: str, xi: float, restart: int, images: str) -> str:
    return f"{group} xi {xi:g} restart {restart} {images}"


def _climbed(joint: "JointAscent", name: str, restart: int, seed: int) -> Steps[dict[str, float]]:
    """Levels at the end of one joint ascent on the images called `name`."""
    settings = joint.settings
    model, images = joint.model, joint.images
    with restored(joint.parameters):
        climbed = yield from joint.run(restart, seed)
        if settings.protocol == "matched":
            robust = yield from robust_examples.steps(model, images, joint.attack, settings.batch_size, seed)
        else:
            robust = at_inputs(model, climbed, images.y, settings.batch_size)
        return levels_at(model, name, images, settings, robust)


def _result(parts: Parts, together: Iterable[str], settings: WorstFlatness) -> Result:
    def increases(group: str, xi: float, column: tuple[str, str]) -> Tensor:
        """One for each restart."""
        level = level_name(column)
        ends = [parts[_part(group, xi, restart, column[1])][level] for restart in range(settings.restarts)]
        return torch.tensor([end - parts["at w"][level] for end in ends], dtype=torch.float64)

    arrays = {
        array_name("restarts", settings, column): torch.stack([increases(WHOLE, xi, column) for xi in settings.xi])
        for column in settings.columns()
    }
    values: dict[str, float] = {}
    flags: list[str] = []
    for place, xi in enumerate(settings.xi):
        for column in settings.columns():
            key = settings.key(xi, column)
            # torch's maximum, unlike Python's, keeps a NaN
            values[key] = float(arrays[array_name("restarts", settings, column)][place].amax())
            flags += negative_flag(key, values[key], 0.0, CLIMBS_THE_LOSS if column[0] == "error" else "")
            arrays |= {layer_key(key, name): increases(name, xi, column) for name in together if name != WHOLE}
    return Result(values, arrays, tuple(flags))


class JointAscent:
    """One restart: weights in balls around where they are and adversarial examples climb the loss together.

    Args:
        model: the network, some of whose `tensors` are moved in place and left at the end of the climb.
        tensors: all that have a direction.
        places: of those that are moved.
        images: the examples.
        settings: epochs, weight step, batch size, what radii are relative to.
        attack: ball, step and start of the examples.
        xi: radius of the weights' balls relative to ||w_l||, or to the norm of each filter.
    """

    def __init__(
        self,
        model: nn.Module,
        tensors: Sequence[nn.Parameter],
        places: Sequence[int],
        images: Images,
        settings: WorstFlatness,
        attack: Attack,
        xi: float,
    ) -> None:
        self.model, self.images, self.settings, self.attack = model, images, settings, attack
        self._all, self._places = [tensor.detach().clone() for tensor in tensors], places
        self.parameters, self._originals = [tensors[i] for i in places], [self._all[i] for i in places]
        self._norms = norms(self._originals, settings.norm)
        self._radii = torch._foreach_mul(self._norms, xi)
        self._strides = torch._foreach_mul(self._norms, settings.step)

    def run(self, restart: int, seed: int) -> Steps[Tensor]:
        """Climbs; returns the examples, like the images in [0, 1]."""
        self._start(restart, seed)
        x, y = to_unit(self.images.x), self.images.y
        adversarial = random_start(x, self.attack, generator(x.device, seed, "joint attack", restart))
        parts = [slice(low, low + self.settings.batch_size) for low in range(0, len(y), self.settings.batch_size)]
        steps = [ascent_step(x[part], self.attack) for part in parts]
        for epoch in range(self.settings.epochs):
            with folded(self.model, moving=True, precision=self.attack.precision):
                for parameter in self.parameters:
                    parameter.requires_grad_(True)
                for part, step in zip(parts, steps, strict=True):
                    iterate = adversarial[part].clone().requires_grad_(True)
                    loss = F.cross_entropy(self.model(iterate), y[part])
                    gradient, *weight_gradients = torch.autograd.grad(loss, [iterate, *self.parameters])
                    self._climb(weight_gradients)
                    adversarial[part] = step(iterate.detach(), gradient)
            yield Tick(epoch + 1, self.settings.epochs)
        return adversarial

    def _start(self, restart: int, seed: int) -> None:
        """w_l + xi * ||w_l|| * u_l * g_l / ||g_l|| with u_l uniform in [0, 1]; a tensor alone starts as among all."""
        device = self._all[0].device
        directions = random_directions(self._all, seed, restart, self.settings.norm)
        random = generator(device, seed, "joint radius", restart)
        shares = torch.rand(len(directions), generator=random, device=device)
        with torch.no_grad():
            rows = zip(self.parameters, self._originals, self._places, self._radii, self._norms, strict=True)
            for parameter, original, place, radius, norm in rows:
                stretch = torch.where(norm > 0, shares[place] * radius / norm, 0.0)
                parameter.copy_(original + directions[place] * stretch)

    def _climb(self, gradients: list[Tensor]) -> None:
        """A step of relative length `settings.step` along each gradient, projected to the ball."""
        whole = self.settings.norm
        with torch.no_grad():
            steps = scaled_to(gradients, self._strides, whole)
            for parameter, move, original, radius in zip(
                self.parameters, steps, self._originals, self._radii, strict=True
            ):
                offset = parameter + move - original
                norm = offset.norm() if whole == "layer" else norms([offset], whole)[0]
                parameter.copy_(original + offset * torch.where(norm > radius, radius / norm, 1.0))
