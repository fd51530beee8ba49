"""Robust error of a network, ours against torchattacks and the authors' AutoAttack run on their own.

    python benchmarks/evaluation.py [--repetitions 5] [--images 256] [--autoattack-images 64]

The network is a small_preact_resnet of width 16, adversarially trained on 8x8 digits for a few epochs. PGD-20 with two
restarts: everybody attacks every image twice; the robust error counts images that are fooled in either. AutoAttack:
flatsweep's measure has pyautoattack's attacks inside, so that what differs is the network that they are given.
"""

import argparse
import time

import torch
from compare import interleaved, machine, print_ratios
from curvature import trained
from peers import peer, titled
from torch import Tensor, nn

from orchestrator.spec.training import Attack
from workers.data.splits import Images
from workers.measures.robust_loss import robust_examples

ATTACK = Attack(eps=0.15, step_size=0.05, steps=20, restarts=2, best_iterate=False)
BATCH = 256


def error_of(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Fraction that is wrong."""
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) != y).double().mean())


class Evaluated:
    """One network's robust error in all the ways that are compared."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.model, self.x, self.y = model.eval(), x, y
        self.images = Images((x * 255).round().to(torch.uint8), y)

    def ours(self) -> float:
        """The measure's attack."""
        return robust_examples(self.model, self.images, ATTACK, BATCH, 0).error()

    def torchattacks(self) -> float:
        """Its PGD, twice; last iterates."""
        module = peer("torchattacks")
        assert module is not None
        wrong = torch.zeros(len(self.y), dtype=torch.bool)
        for _ in range(ATTACK.restarts):
            attack = module.PGD(self.model, ATTACK.eps, ATTACK.step_size, ATTACK.steps)
            for low in range(0, len(self.y), BATCH):
                part = slice(low, low + BATCH)
                found = attack(self.x[part], self.y[part])
                with torch.no_grad():
                    wrong[part] |= self.model(found).argmax(1) != self.y[part]
        return float(wrong.double().mean())

    def our_autoattack(self, count: int) -> float:
        """The attacks of the standard version on the first `count` images, as the measure runs them."""
        from orchestrator.spec.measures import MEASURES
        from workers.data.splits import Splits

        images = self.images.first(count)
        settings = MEASURES.parse({"name": "autoattack", "test_examples": count, "batch_size": BATCH})
        splits = Splits(images, images, images, 10, "")
        values = settings.load()(self.model, splits, settings, attack=ATTACK, seed=0).values
        return next(value for key, value in values.items() if not key.endswith("_se"))

    def pyautoattack(self, count: int) -> float:
        """The same by its own driver."""
        from pyautoattack import AutoAttack

        attack = AutoAttack(self.model, norm="Linf", eps=ATTACK.eps, version="standard", seed=0)
        x, y = self.x[:count], self.y[:count]
        return error_of(self.model, attack.run_standard_evaluation(x, y, batch_size=BATCH)[0], y)


def main() -> None:
    """Prints the errors, and a table for each attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--autoattack-images", type=int, default=64, help="0: without it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processor-time", action="store_true", help="seconds of the processor, not of the wall")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    print(machine())
    clock = time.process_time if wanted.processor_time else time.perf_counter
    model, images, labels = trained("relu", 4, wanted.images)
    compared = Evaluated(model, images["clean"], labels)
    attacks = {"flatsweep": compared.ours}
    if peer("torchattacks"):
        attacks[titled("torchattacks")] = compared.torchattacks
    few = min(wanted.autoattack_images, wanted.images)
    whole = {"flatsweep": lambda: compared.our_autoattack(few)}
    whole[titled("pyautoattack")] = lambda: compared.pyautoattack(few)
    cases = {f"PGD-20 x 2, {wanted.images} images": attacks, f"AutoAttack, {few} images": whole if few else {}}
    for title, alternatives in cases.items():
        if alternatives:
            print(title, {name: round(run(), 4) for name, run in alternatives.items()})
            print_ratios(title, interleaved(alternatives, wanted.repetitions, clock=clock), "flatsweep")


if __name__ == "__main__":
    main()
