"""The loss over the pixels around clean and adversarial inputs: slope, curvature, non-linearity (Li22)."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec.landscape_measures import INPUTS, InputLandscape
from orchestrator.spec.training import Attack
from workers.attacks import ascend, random_start
from workers.data.batches import to_unit
from workers.data.splits import Images, Splits
from workers.measures.input_hessian import InputHessian, top_eigenvalues
from workers.measures.result import Parts, Result, standard_error
from workers.measures.robust_loss import robust_examples
from workers.modes import frozen
from workers.seeding import generator
from workers.steps import Steps, Tick, stepwise


@stepwise
def input_landscape(
    model: nn.Module,
    splits: Splits,
    settings: InputLandscape,
    *,
    attack: Attack,
    seed: int,
    parts: Parts | None = None,
) -> Steps[Result]:
    """For each image, clean and adversarial, the loss's gradient, Hessian and error of linearity over the pixels.

    Args:
        model: from images in [0, 1] to logits.
        splits: the images.
        settings: attack, ascent on the error, eigenvalues.
        attack: the training attack, for what the attacks of `settings` leave out.
        seed: of random starts and Lanczos vectors.
        parts: batches that are done; those done now are added.

    Returns:
        Means over images, with standard errors, of: the L1 norm of the gradient g, in nats per unit of a pixel; the
        mean magnitude of the Hessian's `eigenvalues` largest eigenvalues, in nats per unit squared; and the local
        linearity error max_d |l(x + d) - l(x) - d^T g| over the ball cut with [0, 1], in nats, a lower bound by PGD.
        Arrays: one value per image, and all eigenvalues, images x K, largest magnitude first.
    """
    parts = {} if parts is None else parts
    images = (splits.test if settings.split == "test" else splits.train).first(settings.examples)
    lows = range(0, len(images), settings.batch_size)
    for inputs in INPUTS:
        if all(f"{inputs} {low}" in parts for low in lows):
            continue
        x = to_unit(images.x)
        if inputs == "adversarial":
            budget = settings.attack.resolve(attack)
            found = yield from robust_examples.steps(model, images, budget, settings.batch_size, seed)
            x = found.x
        around = Around(model, x, images, settings, attack, seed)
        for low in lows:
            if f"{inputs} {low}" not in parts:
                parts[f"{inputs} {low}"] = yield from around.batch(low)
    return _result({inputs: [parts[f"{inputs} {low}"] for low in lows] for inputs in INPUTS}, settings)


class Around:
    """What is measured around given inputs, a batch at a time.

    Args:
        model: left as it was.
        x: the inputs, N x C x H x W, in [0, 1].
        images: their labels.
        settings: of the measure.
        attack: the training attack.
        seed: of random starts, drawn for all inputs at once, and Lanczos vectors.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, images: Images, settings: InputLandscape, attack: Attack, seed: int
    ) -> None:
        self.model, self.x, self.y, self.settings, self.seed = model, x, images.y, settings, seed
        self.ball = settings.linearity.resolve(attack)

    def batch(self, low: int) -> Steps[dict[str, Any]]:
        """Values of the inputs from `low` on, as plain lists."""
        here, how = slice(low, low + self.settings.batch_size), self.settings
        with frozen(self.model):
            hessian = InputHessian(self.model, self.x[here], self.y[here])
            top = yield from top_eigenvalues(
                hessian, how.eigenvalues, how.exact_up_to, how.lanczos_steps, how.tolerance, self.seed
            )
            loss, gradient = hessian.loss, hessian.gradient
        del hessian  # and with it the graph
        error = yield from self._linearity_error(here, loss, gradient)
        return {
            "gradient_l1": gradient.flatten(1).double().abs().sum(1).tolist(),
            "linearity_error": error.tolist(),
            "eigenvalues": top.values.tolist(),
            "residual": top.residual.tolist(),
        }

    def _linearity_error(self, here: slice, loss: Tensor, gradient: Tensor) -> Steps[Tensor]:
        """The largest error that an ascent meets, over all restarts."""
        x = self.x[here]
        model = LinearityError(self.model, x, self.y[here], loss, gradient)
        largest = torch.zeros_like(loss)
        for restart in range(self.ball.restarts):
            starts = random_start(self.x, self.ball, generator(x.device, self.seed, "linearity", restart))
            with frozen(model):
                _, error = ascend(model, x, starts[here], lambda errors: errors, self.ball)
            largest = torch.maximum(largest, error)
            yield Tick(restart + 1, self.ball.restarts)
        return largest


class LinearityError(nn.Module):
    """From inputs z to |l(z) - l(x) - (z - x)^T g|, one for each example.

    Args:
        model: from images to logits.
        x: B x C x H x W, where the loss is expanded.
        y: labels, int64, B.
        loss: l(x), B.
        gradient: g, like x.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, loss: Tensor, gradient: Tensor) -> None:
        super().__init__()
        self.model = model
        self._x, self._y, self._loss, self._gradient = x, y, loss, gradient

    def forward(self, z: Tensor) -> Tensor:
        """B errors in nats."""
        loss = F.cross_entropy(self.model(z), self._y, reduction="none")
        return (loss - self._loss - ((z - self._x) * self._gradient).flatten(1).sum(1)).abs()


def _result(batches: dict[str, list[dict[str, Any]]], settings: InputLandscape) -> Result:
    values: dict[str, float] = {}
    arrays: dict[str, Tensor] = {}
    flags = []
    for inputs, found in batches.items():
        whole = {
            key: torch.tensor([value for batch in found for value in batch[key]], dtype=torch.float64)
            for key in found[0]
        }
        each = {
            "gradient_l1": whole["gradient_l1"],
            "curvature": whole["eigenvalues"].abs().mean(1),
            "linearity_error": whole["linearity_error"],
        }
        for value, per_image in each.items():
            key = settings.key(value, inputs)
            values |= {key: math.fsum(per_image.tolist()) / len(per_image), f"{key}_se": standard_error(per_image)}
            arrays[key] = per_image
        arrays[f"{settings.key('curvature', inputs)}_eigenvalues"] = whole["eigenvalues"]
        late = whole["residual"] > settings.tolerance
        if late.any():
            flags.append(
                f"{settings.key('curvature', inputs)}: the eigenvalues of {int(late.sum())} of {len(late)} images have "
                f"not converged in {settings.lanczos_steps} Lanczos steps; largest residual "
                f"{float(whole['residual'].max()):.2g} of the largest eigenvalue"
            )
    return Result(values, arrays, tuple(flags))
