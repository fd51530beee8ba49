"""How a training step computes: in which precision, and whether by the network as it is or compiled.

Nothing of this touches what is measured: the network is as it was outside of `Computing.step`.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from orchestrator.spec.training import Training
from workers.models.classifier import Classifier
from workers.modes import frozen, lowered
from workers.weights import restored

logger = logging.getLogger(__name__)

Compile = Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]
"""From a forward function to a compiled one."""


def compile_forward(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """One graph for training and one for the frozen network, where no gradient of a weight is computed.

    Shapes are fixed: batches of another size take the plain path, so that nothing is compiled again.
    """
    compiled: Callable[[Tensor], Tensor] = torch.compile(forward, dynamic=False)
    return compiled


class Computing:
    """Precision and compilation of the steps of one training.

    Args:
        training: says which.
        model: the network that is trained.
        twice: whether the training loss is differentiated twice; then only the attack is compiled, as a compiled
            network has one derivative.
        compile_with: what compiles.
    """

    def __init__(
        self, training: Training, model: Classifier, twice: bool = False, compile_with: Compile = compile_forward
    ) -> None:
        self.training, self.model, self.twice, self.compile_with = training, model, twice, compile_with
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._tried = not training.compile

    @contextlib.contextmanager
    def step(self, x: Tensor, y: Tensor) -> Iterator[None]:
        """For the attack and the loss of one step on images x like the first ones, with class indices y."""
        with lowered(self.model, self.training.precision):
            if not self._tried and len(x) == self.training.batch_size:
                self._try(x, y)
            with self._in_place(x.shape) if self._compiled else contextlib.nullcontext():
                yield

    def _try(self, x: Tensor, y: Tensor) -> None:
        """Compiles both forms by using them once; on any error training goes on with the plain network."""
        self._tried = True
        buffers = [nn.Parameter(buffer, False) for buffer in self.model.buffers()]
        try:
            self._compiled = self.compile_with(self.model.forward)
            with torch.random.fork_rng(), restored(buffers), self._in_place(x.shape):
                for attacked in (False, True):
                    with self._attacking() if attacked else contextlib.nullcontext():
                        logits = self.model(x.detach().requires_grad_(attacked))
                        nn.functional.cross_entropy(logits, y).backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # of many kinds: a compiler that is missing, or one that cannot do this network
            self._compiled = None
            logger.warning("torch.compile failed, training goes on without it: %s: %s", type(error).__name__, error)
        self.model.zero_grad(set_to_none=True)

    @contextlib.contextmanager
    def _attacking(self) -> Iterator[None]:
        with frozen(self.model), lowered(self.model, self.training.attack.precision):
            yield

    @contextlib.contextmanager
    def _in_place(self, shape: torch.Size) -> Iterator[None]:
        """The compiled forward takes the network's place inside."""
        plain, compiled = self.model.forward, self._compiled
        assert compiled is not None  # noqa: S101  (see `step`)

        def forward(x: Tensor) -> Tensor:
            fits = x.shape == shape and torch.is_grad_enabled()
            if not fits or (self.twice and self.model.training):
                return plain(x)
            # always the same strides: with a single channel there are several that mean the same, and each has a graph
            return compiled(x.clone(memory_format=torch.channels_last))

        vars(self.model)["forward"] = forward
        try:
            yield
        finally:
            del vars(self.model)["forward"]
