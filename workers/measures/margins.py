"""Margins of the logits on clean and adversarial inputs (Jiang19, arXiv 1912.02178; SCIENCE.md section 7)."""

import math

import torch
from scipy.special import betainc
from torch import Tensor, nn

from orchestrator.spec.network_measures import Margins
from orchestrator.spec.training import Attack
from workers.data.batches import to_unit
from workers.data.splits import Splits
from workers.measures.result import Parts, Result
from workers.measures.robust_loss import robust_examples
from workers.modes import frozen
from workers.steps import Steps, stepwise


@stepwise
def margins(
    model: nn.Module,
    splits: Splits,
    settings: Margins,
    *,
    attack: Attack,
    seed: int,
    parts: Parts | None = None,
) -> Steps[Result]:
    """A percentile of z_y - max over k != y of z_k: negative where an example is wrong.

    Args:
        model: from images in [0, 1] to logits.
        splits: the training images are taken un-augmented.
        settings: percentile, attack, sizes.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of the random starts.
        parts: margins that are done; those done now are added.

    Returns:
        `margin_p10_clean_train`, ... as in `settings.keys()`, in units of logits; the percentile is interpolated
        between neighbours, its standard error is that of the bootstrap, computed exactly. Arrays: `clean_train`, ...
        one margin per example.
    """
    parts = {} if parts is None else parts
    sets = {"train": splits.train.first(settings.train_examples), "test": splits.test.first(settings.test_examples)}
    for part, images in sets.items():
        if f"clean {part}" not in parts:
            parts[f"clean {part}"] = margins_of(model, to_unit(images.x), images.y, settings.batch_size).tolist()
        if f"adversarial {part}" not in parts:
            found = yield from robust_examples.steps(
                model, images, settings.attack.resolve(attack), settings.batch_size, seed
            )
            parts[f"adversarial {part}"] = margins_of(model, found.x, images.y, settings.batch_size).tolist()
    values: dict[str, float] = {}
    errors: dict[str, float] = {}
    arrays: dict[str, Tensor] = {}
    for kind in ("clean", "adversarial"):
        for part in sets:
            each = torch.tensor(parts[f"{kind} {part}"], dtype=torch.float64)
            arrays[f"{kind}_{part}"], key = each, settings.key(kind, part)
            values[key] = float(each.quantile(settings.percentile / 100))
            errors[f"{key}_se"] = percentile_error(each, settings.percentile / 100)
    return Result(values | errors, arrays)


def margins_of(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """z_y - max over k != y of z_k for images in [0, 1], N x C x H x W, with labels y: N."""
    found = []
    with frozen(model), torch.no_grad():
        for low in range(0, len(y), batch_size):
            logits, labels = model(x[low : low + batch_size]), y[low : low + batch_size, None]
            own = logits.gather(1, labels)[:, 0]
            found.append(own - logits.scatter(1, labels, -torch.inf).amax(1))
    return torch.cat(found)


def percentile_error(values: Tensor, share: float) -> float:
    """Standard error of the sample's quantile at `share` in (0, 1), of N independent values; 0 for a single one.

    The bootstrap's, without drawing: a resample's m-th smallest value is the sample's i-th smallest with a probability
    that is a difference of beta distributions (Maritz & Jarrett 1978).
    """
    count = len(values)
    if count < 2:
        return 0.0
    m = min(max(math.floor(share * count + 0.5), 1), count)
    up_to = torch.from_numpy(betainc(m, count - m + 1, torch.arange(count + 1, dtype=torch.float64).numpy() / count))
    chance, ordered = up_to.diff(), values.detach().double().cpu().sort().values
    mean = chance @ ordered
    return math.sqrt(float(chance @ (ordered - mean) ** 2))
