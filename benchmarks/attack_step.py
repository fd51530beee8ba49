"""PGD-10 on one batch, ours against the `loss.backward()` loop of the papers' codes, on 2 networks.

    python benchmarks/attack_step.py [--repetitions 7]

The loop in `backward_loop` is the usual procedure written out: parameters keep their gradients, default memory layout.
"""

import argparse

import torch
from compare import interleaved, machine, print_ratios
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from orchestrator.spec.models import MODELS
from orchestrator.spec.training import Attack
from workers.attacks import cross_entropy_objective, pgd
from workers.models.classifier import Classifier

ATTACK = Attack(eps=8 / 255, step_size=2 / 255, steps=10, best_iterate=False)


def backward_loop(model: nn.Module, x: Tensor, y: Tensor, attack: Attack) -> Tensor:
    """PGD as it is usually published: `loss.backward()` computes every weight's gradient too."""
    model.eval()
    adversarial = (x + torch.empty_like(x).uniform_(-attack.eps, attack.eps)).clamp(0, 1)
    for _ in range(attack.steps):
        adversarial.requires_grad_()
        model.zero_grad()
        F.cross_entropy(model(adversarial), y).backward()
        gradient = adversarial.grad
        assert gradient is not None
        adversarial = adversarial.detach() + attack.step_size * gradient.sign()
        adversarial = torch.min(torch.max(adversarial, x - attack.eps), x + attack.eps).clamp(0, 1)
    model.train()
    return adversarial.detach()


def network(name: str, parameters: dict[str, int], channels: int, size: int) -> Classifier:
    """A network of the vocabulary with 10 classes."""
    spec = MODELS.parse({"name": name, **parameters})
    torch.manual_seed(0)
    inner = spec.load()(spec, (channels, size, size), 10)
    return Classifier(inner, torch.full((channels,), 0.5), torch.full((channels,), 0.25))


def main() -> None:
    """Prints one table per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    print(machine())
    cases = (("small_preact_resnet", {"width": 16}, 1, 8, 100), ("preact_resnet18", {"width": 64}, 3, 32, 16))
    for name, parameters, channels, size, batch in cases:
        plain = network(name, parameters, channels, size)
        ours = network(name, parameters, channels, size).to(memory_format=torch.channels_last)
        x, y = torch.rand(batch, channels, size, size), torch.randint(10, (batch,))
        x_last = x.contiguous(memory_format=torch.channels_last)
        random = torch.Generator().manual_seed(0)
        alternatives = {
            "flatsweep": lambda m=ours, x=x_last, y=y, r=random: pgd(m, x, cross_entropy_objective(y), ATTACK, r),
            "loss.backward() loop": lambda m=plain, x=x, y=y: backward_loop(m, x, y, ATTACK),
        }
        seconds = interleaved(alternatives, repetitions)
        print_ratios(f"PGD-{ATTACK.steps}, {name}, {batch} images {channels}x{size}x{size}", seconds, "flatsweep")


if __name__ == "__main__":
    main()
