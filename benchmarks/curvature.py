"""Layer traces and extreme eigenvalues of the Hessian, ours against Hutchinson's probes, curvlinops and pyhessian.

    python benchmarks/curvature.py [--repetitions 3] [--images 256] [--epochs 4] [--loss clean|robust]
        [--activation relu|gelu] [--processor-time]

The networks are small_preact_resnets of width 16, with ReLU and with GELU, adversarially trained on 8x8 digits for a
few epochs; the Hessian is that of the clean loss on test images, or of the robust loss at PGD-20 examples found before,
in batches of 128, in all kernels and matrices. The peers get the same batches. Their traces are those of the whole
Hessian; those of layers would be one such run for each. ARPACK's tolerance is relative to each eigenvalue, ours to the
larger one, so ours is set that much smaller; pyhessian's power iteration stops when its estimate changes by less, and
so has a row of ours beside it that stops as soon as it is closer to the eigenvalue.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable

import torch
from compare import interleaved, machine, print_ratios
from peers import peer, titled
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from orchestrator.spec.sweep import Trial
from orchestrator.spec.training import Attack
from workers.data.batches import to_unit
from workers.data.splits import load_splits
from workers.measures.estimated_traces import estimated_traces
from workers.measures.gauss_newton import gauss_newton_traces
from workers.measures.hessian import Hessian, curvature_tensors, differentiated
from workers.measures.lanczos import lanczos
from workers.measures.remainder import why_not_exact
from workers.measures.robust_loss import robust_examples
from workers.measures.trace import hutchinson, random_signs
from workers.measures.wci import index_of
from workers.steps import drain
from workers.training import Trainer

BATCH, OWN_PROBES, COMMON_PROBES, TOLERANCE = 128, 10, 100, 1e-3


EVALUATION = Attack(eps=0.15, step_size=0.0375, steps=20)


def trained(activation: str, epochs: int, images: int) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """The network, the images in [0, 1] behind the clean and the robust loss, and their labels."""
    trial = Trial.model_validate(
        {
            "data": {"name": "digits", "train_size": 1000, "validation_size": 50, "test_size": max(images, 100)},
            "model": {"name": "small_preact_resnet", "width": 16},
            "method": "at",
            "regularizers": [] if activation == "relu" else [{"name": "activation", "kind": activation}],
            "training": {"epochs": epochs, "batch_size": 100, "schedule": "constant",
                         "attack": {"eps": 0.15, "step_size": 0.05, "steps": 5}},
            "seed": 0,
        }
    )  # fmt: skip
    splits = load_splits(trial.data, torch.device("cpu"))
    trainer = Trainer(trial, splits, None, torch.device("cpu"))
    drain(trainer.run())
    test = splits.test.first(images)
    robust = robust_examples(trainer.model, test, EVALUATION, 1000, 0)
    return trainer.model, {"clean": to_unit(test.x), "robust": robust.x}, test.y


class Compared:
    """One network's Hessian in all the ways that are compared; nothing is kept from one run to the next."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        from curvlinops import HessianLinearOperator

        self.model, self.x, self.y, self.tensors = model, x, y, curvature_tensors(model)
        batches = [(x[low : low + BATCH], y[low : low + BATCH]) for low in range(0, len(y), BATCH)]
        self.theirs = HessianLinearOperator(
            model, nn.CrossEntropyLoss(), self.tensors, batches, check_deterministic=False
        )
        pyhessian = peer("pyhessian")
        self.powers = pyhessian and pyhessian.hessian(model, nn.CrossEntropyLoss(), dataloader=batches, cuda=False)

    def ours(self) -> Hessian:
        """Our operator, with no graph yet."""
        return Hessian(self.model, self.tensors, self.x, self.y, BATCH)

    def exact(self) -> Tensor:
        """Layer traces without probes, 1 x layers; with the check that they are the whole."""
        assert why_not_exact(self.model, self.tensors, self.x, 0) is None
        return gauss_newton_traces(self.model, self.tensors, self.x, BATCH, {})[None]

    def own(self, probes: int = OWN_PROBES) -> Tensor:
        """Exact Gauss-Newton part, and probes of each example's own for the rest: probes x layers."""
        return estimated_traces(self.model, self.tensors, self.x, self.y, BATCH, 0, range(probes), {})

    def common(self, probes: int = COMMON_PROBES) -> Tensor:
        """Hutchinson's estimates from probes that all examples share: probes x layers."""
        return hutchinson(self.ours(), 0, range(probes), {}, probes)

    def curvlinops(self, probes: int = COMMON_PROBES) -> Tensor:
        """Its Hutchinson estimate of the whole trace."""
        from curvlinops import hutchinson_trace

        return hutchinson_trace(self.theirs, probes)

    def ends(self, tolerance: float, most_products: int = 1000) -> tuple[float, float]:
        """Smallest and largest eigenvalue by our Lanczos."""
        hessian = self.ours()
        start = random_signs(hessian, 0, "lanczos", 0)
        found = lanczos(hessian.product, start, 1, 64, most_products, tolerance, whole=False)
        return float(found.smallest), float(found.largest[0])

    def largest(self) -> float:
        """Largest eigenvalue, by our run for both ends."""
        return self.ends(TOLERANCE)[1]

    def largest_beyond(self, value: float) -> Callable[[], float]:
        """The largest, by as many products as it takes to come closer to it than `value` does, which lies below it."""
        products = next(count for count in range(2, 100) if self.ends(0.0, count)[1] >= value)
        return lambda: self.ends(0.0, products)[1]

    def scipys_largest(self) -> float:
        """The same by ARPACK on curvlinops' products."""
        return float(eigsh(self.theirs.to_scipy(), k=1, which="LA", tol=TOLERANCE, return_eigenvectors=False)[0])

    def power_iterations(self) -> float:
        """Largest in absolute value, by pyhessian."""
        return float(self.powers.eigenvalues(maxIter=1000, tol=TOLERANCE)[0][0])

    def pyhessians_trace(self, probes: int) -> float:
        """Its Hutchinson estimate of the whole trace; any other tolerance stops it at a negative estimate."""
        return float(sum(self.powers.trace(maxIter=probes, tol=-math.inf)) / probes)

    def scipys_ends(self) -> tuple[float, float]:
        """The same by ARPACK on curvlinops' products."""
        low, high = eigsh(self.theirs.to_scipy(), k=2, which="BE", tol=TOLERANCE, return_eigenvectors=False)
        return float(min(low, high)), float(max(low, high))


def described(name: str, forms: Tensor, norms: Tensor) -> float:
    """Prints the index and the whole trace with standard errors; returns the deviation of one probe's trace."""
    index, error = index_of(forms, norms)
    total = forms.sum(1)
    deviation = float(total.std()) if len(total) > 1 else 0.0
    trace_error = deviation / math.sqrt(len(total))
    print(f"  {name}: wci {index:.4g} +- {error:.2g}, trace {float(total.mean()):.4g} +- {trace_error:.2g}")
    return deviation


def compare(name: str, exact: bool, compared: Compared, args: argparse.Namespace) -> None:
    """Prints a table of traces and two of eigenvalues."""
    norms = torch.stack([tensor.detach().double().norm() for tensor in compared.tensors])
    print(f"{name}, {sum(t.numel() for t in compared.tensors)} weights, {len(compared.y)} images")
    common = described(f"{COMMON_PROBES} common probes", compared.common(), norms)
    if exact:
        described("exact", compared.exact(), norms)
        ours, run, probes = "flatsweep, exact", compared.exact, COMMON_PROBES
    else:
        own = described(f"{4 * OWN_PROBES} own probes", compared.own(4 * OWN_PROBES), norms)
        ours, run = f"flatsweep, {OWN_PROBES} own probes", compared.own
        probes = math.ceil(OWN_PROBES * (common / own) ** 2)
        print(f"  {probes} common probes have the standard error of {OWN_PROBES} own ones")
    traces = {
        ours: run,
        f"flatsweep, {probes} probes": lambda: compared.common(probes),
        f"curvlinops, {probes} probes": lambda: compared.curvlinops(probes),
    }
    largest = {"flatsweep, both ends": compared.largest, "curvlinops, eigsh": compared.scipys_largest}
    if compared.powers:
        traces[f"{titled('pyhessian')}, {probes} probes"] = lambda: compared.pyhessians_trace(probes)
        largest[f"{titled('pyhessian')}, power iteration"] = compared.power_iterations
        largest["flatsweep, closer than that"] = compared.largest_beyond(compared.power_iterations())
    print("  largest:", {key: f"{found():.5g}" for key, found in largest.items()})
    ends = both_ends(compared)
    clock, unit = (time.process_time, "CPU ms") if args.processor_time else (time.perf_counter, "ms")
    tables = ((f"Traces, {name}", traces, ours), (f"Largest eigenvalue to {TOLERANCE:g}, {name}", largest, None),
              (f"Both ends to {TOLERANCE:g}, {name}", ends, None))  # fmt: skip
    for title, alternatives, own_row in tables:
        seconds = interleaved(alternatives, args.repetitions, clock=clock)
        print_ratios(title, seconds, own_row or next(iter(alternatives)), unit)


def both_ends(compared: Compared) -> dict[str, Callable[[], tuple[float, float]]]:
    """Both ways, at the same accuracy of each end; prints what they find."""
    smallest, largest = compared.ends(TOLERANCE)
    equal = TOLERANCE * abs(smallest) / largest
    ends = {"flatsweep": lambda: compared.ends(equal), "curvlinops, eigsh": compared.scipys_ends}
    print("  smallest and largest:", {name: tuple(f"{end:.5g}" for end in run()) for name, run in ends.items()})
    return ends


def main() -> None:
    """Compares on both networks and both losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--loss", choices=("clean", "robust"), action="append")
    parser.add_argument("--activation", choices=("relu", "gelu"), action="append")
    parser.add_argument("--processor-time", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    warnings.filterwarnings("ignore", message=".*create_graph=True will create a reference cycle.*")  # pyhessian
    print(machine())
    for activation in args.activation or ("relu", "gelu"):
        model, images, y = trained(activation, args.epochs, args.images)
        for loss in args.loss or ("clean", "robust"):
            with differentiated(model, curvature_tensors(model)):
                name = f"{activation}, {loss} loss"
                compare(name, activation == "relu", Compared(model, images[loss], y), args)


if __name__ == "__main__":
    main()
