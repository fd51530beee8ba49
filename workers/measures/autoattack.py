"""Robust error under AutoAttack, by the authors' code (pyautoattack), one batch of one attack at a time."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.spec.network_measures import TARGETS, AttackName, AutoAttack
from orchestrator.spec.training import Attack
from workers.data.batches import to_unit
from workers.data.splits import Images, Splits
from workers.folding import folded
from workers.measures.result import Parts, Result, standard_error
from workers.measures.robust_loss import clean_examples
from workers.modes import frozen
from workers.seeding import seed_of
from workers.steps import Steps, Tick, stepwise

NORMS = {"linf": "Linf", "l2": "L2"}
FEWEST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}
"""The difference-of-logits ratio divides by the distance to the third logit, the targeted one to third and fourth."""
SQUARE_SHARE = 0.002
"""AutoAttack's authors mistrust a result where Square, which sees no gradient, fools more than this share of images."""
ROUNDING = 1e-5
"""How far an adversarial example may lie outside ball or box, in units of the pixel range."""
ROBUST, WRONG_CLEAN = -1, 0


@stepwise
def autoattack(
    model: nn.Module,
    splits: Splits,
    settings: AutoAttack,
    *,
    attack: Attack,
    seed: int,
    parts: Parts | None = None,
) -> Steps[Result]:
    """Fraction of images that are wrong clean or under one of the attacks, which run one after another.

    As in the authors' own loop an attack sees only the images that nothing before it fooled, packed into full batches,
    and starts every batch from the same seed. An adversarial example counts only inside ball and box.

    Args:
        model: from images in [0, 1] to logits; attacked in eval mode with frozen parameters.
        splits: the training images are taken un-augmented.
        settings: version, attacks, ball, sizes.
        attack: the training attack, for the ball that `settings.attack` leaves out.
        seed: of all attacks.
        parts: batches that are done; those done now are added.

    Returns:
        `autoattack_error_test`, ... as in `settings.keys()`. Arrays: `fooled_by_test`, ... one int8 per image: -1
        robust, 0 wrong clean, n fooled by the n-th attack of `settings.chosen()`.

    Raises:
        ImportError: pyautoattack is not installed.
        ValueError: every chosen attack needs more classes than there are.
    """
    cascade = Cascade(model, splits, settings, settings.attack.resolve(attack), seed, {} if parts is None else parts)
    fooled_by: dict[str, Tensor] = {}
    for part in settings.sets():
        fooled_by[part] = yield from cascade.run(part)
    wrong = [(found != ROBUST).double() for found in fooled_by.values()]
    means, errors = [float(each.mean()) for each in wrong], [standard_error(each) for each in wrong]
    if len(wrong) == 2:  # train, test: and the gap
        means, errors = [*means, means[1] - means[0]], [*errors, math.hypot(*errors)]
    values = dict(zip(settings.keys(), [*means, *errors], strict=True))
    return Result(values, {f"fooled_by_{part}": found for part, found in fooled_by.items()}, cascade.flags(fooled_by))


class Cascade:
    """AutoAttack's attacks on a network, one after another, each on what the ones before left over.

    Args:
        model: from images in [0, 1] to logits.
        splits: the images.
        settings: version, attacks, sizes.
        ball: norm and eps.
        seed: of all attacks.
        parts: what is done; see `Parts`.
    """

    def __init__(
        self, model: nn.Module, splits: Splits, settings: AutoAttack, ball: Attack, seed: int, parts: Parts
    ) -> None:
        self.model, self.settings, self.ball, self.parts = model, settings, ball, parts
        self.sets = {
            "train": splits.train.first(settings.train_examples),
            "test": splits.test.first(settings.test_examples),
        }
        chosen = settings.chosen()
        self.impossible = [name for name in chosen if splits.classes < FEWEST_CLASSES.get(name, 2)]
        if len(self.impossible) == len(chosen):
            raise ValueError(f"{splits.classes} classes are too few for {', '.join(chosen)}: choose other attacks")
        self.warnings = _Warnings()
        self.library = _library(model, settings, ball, seed_of(seed, "autoattack"), splits, self.warnings)

    def run(self, part: str) -> Steps[Tensor]:
        """What fooled each image of the set `part`: int8, N; see `autoattack`."""
        images, size = self.sets[part], self.settings.batch_size
        fooled_by = torch.full((len(images),), ROBUST, dtype=torch.int8)
        if f"{part} clean" not in self.parts:
            self.parts[f"{part} clean"] = self._look(images)
        fooled_by[self.parts[f"{part} clean"]["wrong"]] = WRONG_CLEAN
        batches = math.ceil(len(images) / size)
        for number, name in enumerate(self.settings.chosen(), start=1):
            left = (fooled_by == ROBUST).nonzero().flatten().tolist()
            for index, low in enumerate(range(0, len(left), size) if name not in self.impossible else ()):
                key, here = f"{part} {name} batch {index}", left[low : low + size]
                if key not in self.parts:
                    self.parts[key] = self._attack(name, images, here)
                    yield Tick((number - 1) * batches + index + 1, len(self.settings.chosen()) * batches)
                fooled_by[self.parts[key]["fooled"]] = number
        return fooled_by

    def _look(self, images: Images) -> dict[str, Any]:
        """Which images are wrong clean, and what AutoAttack's authors check before they attack."""
        from pyautoattack import checks

        wrong = clean_examples(self.model, images, self.settings.batch_size).wrong
        x, y = to_unit(images.x[: self.settings.batch_size]), images.y[: self.settings.batch_size]
        with frozen(self.model), torch.no_grad():
            checks.check_randomized(self.model, x, y, bs=len(x), logger=self.warnings)
            random = self.warnings.taken() > 0
            checks.check_range_output(self.model, x, logger=self.warnings)
        found = {"random": random, "probabilities": self.warnings.taken() > 0}
        return {"wrong": wrong.nonzero().flatten().tolist(), **found}

    def _attack(self, name: AttackName, images: Images, here: list[int]) -> dict[str, Any]:
        """One attack on the images at the places `here`: the places of those that it fooled, and what is odd."""
        x, y = to_unit(images.x[here]).contiguous(), images.y[here]  # the library takes no channels_last
        with folded(self.model), torch.no_grad(), _own_random(x.device):
            adversarial = adversarial_examples(self.library, name, x, y)
            wrong = self.model(adversarial).argmax(1) != y
        inside = is_inside(adversarial, x, self.ball)
        fooled = (wrong & inside).nonzero().flatten().tolist()
        return {
            "fooled": [here[place] for place in fooled],
            "outside": int((wrong & ~inside).sum()),
            "zero_gradient": self.warnings.taken() > 0,
        }

    def flags(self, fooled_by: dict[str, Tensor]) -> tuple[str, ...]:
        """What a reader of the error must know."""
        flags = [f"{name} needs at least {FEWEST_CLASSES[name]} classes: left out" for name in self.impossible]
        clean = [found for key, found in self.parts.items() if key.endswith(" clean")]
        if any(found["random"] for found in clean) and self.settings.version != "rand":
            flags.append("the network gives other logits each time: use the version rand")
        if any(found["probabilities"] for found in clean):
            flags.append("the network gives probabilities instead of logits: AutoAttack's error is too low")
        for name in self.settings.chosen():
            found = [each for key, each in self.parts.items() if f" {name} batch " in key]
            if outside := sum(each["outside"] for each in found):
                flags.append(f"{outside} adversarial examples of {name} lay outside the ball and do not count")
            if any(each["zero_gradient"] for each in found):
                flags.append(f"{name} met images without a gradient: it may miss adversarial examples there")
        if "square" in self.settings.chosen() and len(self.settings.chosen()) > 1:
            by_square = 1 + self.settings.chosen().index("square")
            for part, by in fooled_by.items():
                if (share := float((by == by_square).double().mean())) > SQUARE_SHARE:
                    flags.append(
                        f"Square, which sees no gradient, fooled {share:.2%} of the {part} images that withstood the "
                        f"attacks before it: gradients may be masked, and a stronger attack may exist"
                    )
        return tuple(flags)


def _library(
    model: nn.Module, settings: AutoAttack, ball: Attack, seed: int, splits: Splits, warnings: "_Warnings"
) -> Any:
    """The authors' attacks with the parameters of the version."""
    try:
        from pyautoattack import AutoAttack as Library
    except ImportError as error:
        raise ImportError("the measure autoattack needs the package pyautoattack: pip install pyautoattack") from error
    library = Library(
        model,
        norm=NORMS[ball.norm],
        eps=ball.eps,
        seed=seed,
        version=settings.version,
        device=splits.test.x.device,
    )
    targets = min(TARGETS, splits.classes - 1)
    library.apgd_targeted.n_target_classes = library.fab.n_target_classes = targets
    library.fab.targeted = True
    library.apgd.logger = library.apgd_targeted.logger = warnings
    return library


def adversarial_examples(library: Any, name: AttackName, x: Tensor, y: Tensor) -> Tensor:
    """One of the authors' attacks on images that the network gets right; those that it cannot fool may come back."""
    if name in {"apgd-ce", "apgd-dlr"}:
        library.apgd.loss = name.removeprefix("apgd-")
    attack = {"apgd-t": library.apgd_targeted, "fab-t": library.fab, "square": library.square}.get(name, library.apgd)
    attack.seed = library.seed
    found: Tensor = attack.perturb(x, y)
    return found


def is_inside(adversarial: Tensor, x: Tensor, ball: Attack) -> Tensor:
    """Whether each adversarial example lies within the ball around its image and within [0, 1]: bool, N."""
    offset = (adversarial - x).flatten(1)
    length = offset.abs().amax(1) if ball.norm == "linf" else offset.norm(dim=1)
    outside_box = (adversarial - adversarial.clamp(0, 1)).flatten(1).abs().amax(1)
    return (length <= ball.eps + ROUNDING) & (outside_box <= ROUNDING)


class _Warnings:
    """Takes the place of the library's logger and counts what it warns of."""

    def __init__(self) -> None:
        self._count = 0

    def warning(self, _message: object) -> None:
        self._count += 1

    def taken(self) -> int:
        """Warnings since the last call."""
        count, self._count = self._count, 0
        return count


@contextlib.contextmanager
def _own_random(device: torch.device) -> Iterator[None]:
    """The library seeds the global generators and draws from them; afterwards they are as before."""
    devices = range(torch.cuda.device_count()) if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
