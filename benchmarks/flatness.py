"""Average- and worst-case flatness and the reference robust loss, ours against the published procedure.

    python benchmarks/flatness.py [--repetitions 3] [--images 128] [--steps 20] [--network cnn|digits]
        [--restarts 1|10] [--measure reference|average|worst] [--processor-time]

Both do the same work: PGD-20 with the best iterate, 20 joint epochs, batches of 128 behind each weight step. Flatness
is timed without the reference robust loss, which has a table of its own. With ten restarts there are a quarter of the
steps and epochs, so that it does not take long. The peer is `published.py`, in the layout that the released loaders
give and in PyTorch's default one. "bf16" attacks with gradients in bfloat16 and looks at what it finds in single
precision, all others are in single precision throughout. Weights are untrained, which times do not depend on. Where
other work shares the cores, `--processor-time` counts this process's own seconds instead of those on the wall.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from compare import CPU, Around, counted_flop, in_a_trial, interleaved, machine, matrix_peak, print_ratios
from published import Published
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from orchestrator.spec.measures import AverageFlatness, WorstFlatness
from orchestrator.spec.models import MODELS
from orchestrator.spec.training import Attack, Precision
from workers.data.splits import Images, Splits
from workers.measures.average_flatness import average_flatness
from workers.measures.result import Parts
from workers.measures.robust_loss import robust_examples
from workers.measures.worst_flatness import worst_flatness
from workers.models.classifier import Classifier
from workers.modes import frozen
from workers.weights import perturbed_tensors

NETWORKS = {
    "cnn": ({"name": "cnn", "depth": 1}, (3, 32, 32), Attack(eps=8 / 255, step_size=0.007)),
    "digits": ({"name": "small_preact_resnet", "width": 16}, (1, 8, 8), Attack(eps=0.15, step_size=0.0375)),
}
"""Network, shape of the images, attack."""
PRECISIONS: dict[str, Precision] = {"flatsweep": "fp32", "flatsweep, bf16": "bf16"}
MEASURES = ("reference", "average", "worst")
AVERAGE_XI, WORST_XI = 0.5, 0.003
AT_W: Parts = {"at w": {"loss test": 0.0}}
"""The reference robust loss as if it were measured, so that only the perturbed one is timed."""


def network(spec: dict[str, object], shape: tuple[int, int, int]) -> Classifier:
    """In eval mode, with statistics of batch normalisation that fit its weights."""
    model = MODELS.parse(spec)
    torch.manual_seed(0)
    found = Classifier(model.load()(model, shape, 10), torch.full(shape[:1], 0.5), torch.full(shape[:1], 0.25))
    for _ in range(30):
        found(torch.rand(128, *shape))
    return found.eval()


class Compared:
    """The measures on one network by both; `ours` and `theirs` have the same weights.

    Args:
        name: of the network.
        images: how many.
        restarts: also draws.
        steps: of the attack, and joint epochs; a quarter of them with ten restarts.
    """

    def __init__(self, name: str, images: int, restarts: int, steps: int) -> None:
        spec, shape, attack = NETWORKS[name]
        self.restarts, self.steps = restarts, steps if restarts == 1 else max(1, steps // 4)
        self.attack = attack.model_copy(update={"steps": self.steps})
        self.ours = network(spec, shape).to(memory_format=torch.channels_last)
        pixels = torch.randint(256, (images, shape[1], shape[2], shape[0]), dtype=torch.uint8).permute(0, 3, 1, 2)
        self.images = Images(pixels, torch.randint(10, (images,)))
        self.splits = Splits(self.images, self.images, self.images, 10, "")
        x = pixels / 255
        self.theirs = {
            layout: Published(network(spec, shape), x, self.images.y, attack.eps, attack.step_size, layout)
            for layout in ("released", "default")
        }

    def tables(self) -> dict[str, tuple[dict[str, Callable[[], float]], float]]:
        """Alternatives by measure, each returning its robust loss, and the FLOP that the measure takes."""
        both, forward = self._flop(False), self._flop(None)
        attacked = self.restarts * len(self.images) * (self.steps * both + forward)
        joint = self.restarts * len(self.images) * (self.steps * self._flop(True) + forward)
        peers = {f"published, {layout}": peer for layout, peer in self.theirs.items()}
        return {
            "reference": (
                self._ours(self._reference)
                | {name: lambda p=peer: p.reference(self.steps, self.restarts) for name, peer in peers.items()},
                attacked,
            ),
            "average": (
                self._ours(self._average)
                | {
                    name: lambda p=peer: p.average(AVERAGE_XI, self.steps, self.restarts)
                    for name, peer in peers.items()
                },
                attacked,
            ),
            "worst": (
                self._ours(self._worst)
                | {name: lambda p=peer: p.worst(WORST_XI, self.steps, self.restarts) for name, peer in peers.items()},
                joint,
            ),
        }

    def around(self) -> dict[str, Around]:
        """Ours are timed as in a trial."""
        return {name: in_a_trial(partial(self._reference, precision, 1)) for name, precision in PRECISIONS.items()}

    @staticmethod
    def _ours(measure: Callable[[Precision], float]) -> dict[str, Callable[[], float]]:
        return {name: partial(measure, precision) for name, precision in PRECISIONS.items()}

    def _reference(self, precision: Precision, steps: int | None = None) -> float:
        own = {"restarts": self.restarts, "precision": precision, "steps": steps or self.steps}
        attack = self.attack.model_copy(update=own)
        return robust_examples(self.ours, self.images, attack, 1000, 0).mean_loss()

    def _average(self, precision: Precision) -> float:
        own = {"step_size": self.attack.step_size, "steps": self.steps, "precision": precision}
        settings = AverageFlatness(xi=(AVERAGE_XI,), draws=self.restarts, attack=own)
        found = average_flatness(self.ours, self.splits, settings, attack=self.attack, seed=0, parts=dict(AT_W))
        return found.values[settings.key(AVERAGE_XI)]

    def _worst(self, precision: Precision) -> float:
        own = {"step_size": self.attack.step_size, "precision": precision}
        settings = WorstFlatness(
            xi=(WORST_XI,), restarts=self.restarts, epochs=self.steps, attack=own, protocol="stutz21"
        )
        found = worst_flatness(self.ours, self.splits, settings, attack=self.attack, seed=0, parts=dict(AT_W))
        return found.values[settings.key(WORST_XI)]

    def _flop(self, weights: bool | None) -> float:
        """Of one image: a forward pass alone (None), with the gradient of the input, and with those of the weights."""
        x, y = torch.rand(1, *self.images.x.shape[1:]), self.images.y[:1]

        def run() -> None:
            wanted: list[Tensor] = [x.requires_grad_(True)]
            with frozen(self.ours):
                if weights:
                    wanted += [tensor.requires_grad_(True) for tensor in perturbed_tensors(self.ours)]
                loss = F.cross_entropy(self.ours(x.clone()), y)  # the counter's hooks take no leaf
                if weights is not None:
                    torch.autograd.grad(loss, wanted)

        return counted_flop(run)


def compare(name: str, restarts: int, args: argparse.Namespace) -> None:
    """Prints a table per measure, and the robust losses that the last repetition found."""
    compared, peak = Compared(name, args.images, restarts, args.steps), matrix_peak(CPU)
    clock, unit = (time.process_time, "CPU ms") if args.processor_time else (time.perf_counter, "ms")
    for measure, (alternatives, floor) in compared.tables().items():
        if measure not in (args.measure or MEASURES):
            continue
        found: dict[str, float] = {}

        def noted(key: str, run: Callable[[], float], found: dict[str, float] = found) -> None:
            found[key] = run()

        timed = {key: lambda k=key, r=run, n=noted: n(k, r) for key, run in alternatives.items()}
        seconds = interleaved({**timed, **peak.alternative}, args.repetitions, clock=clock, around=compared.around())
        title = f"{name}, {measure}, {restarts} restarts, {args.images} images, {compared.steps} steps"
        print_ratios(title, seconds, "flatsweep", unit, floor=floor, peak=peak)
        print("robust losses:", ", ".join(f"{key} {loss:.4f}" for key, loss in found.items()))


def main() -> None:
    """Compares on both networks with one restart and with ten."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--network", choices=list(NETWORKS), action="append")
    parser.add_argument("--restarts", type=int, choices=(1, 10), action="append")
    parser.add_argument("--measure", choices=MEASURES, action="append")
    parser.add_argument("--processor-time", action="store_true")
    args = parser.parse_args()
    print(machine())
    for name in args.network or NETWORKS:
        for restarts in args.restarts or (1, 10):
            compare(name, restarts, args)


if __name__ == "__main__":
    main()
