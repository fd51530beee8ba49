"""Training one network: the loop in plain sight. It can be stopped after any batch and goes on bit for bit the same."""

import contextlib
import copy
import hashlib
import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.spec.sweep import Trial
from workers import checkpoints, faults, layout
from workers.computing import Computing
from workers.data.batches import TrainingBatches
from workers.data.splits import Splits
from workers.failures import DivergedError
from workers.labels import Labels
from workers.methods.base import Loss, Method, NetworkPolicy, Replayed, Scheduled, Stateful, WeightPerturbation
from workers.models.classifier import Classifier, build_classifier
from workers.recorder import Recorder
from workers.regularizers.base import (
    AfterEpoch,
    AfterStep,
    BatchTransform,
    FinalWeights,
    OptimizerPolicy,
    Penalty,
    StepPolicy,
)
from workers.seeding import generator, seed_of
from workers.selection import Selection
from workers.storage import Folder
from workers.weights import restored

DIVERGED_LOSS = 1e3
"""A mean loss of an epoch above this many nats is divergence too: no network that says anything has it [ours]."""

BOX_TOLERANCE = 1e-4
"""How far outside [0, 1] rounding may bring an input."""


@dataclass(frozen=True)
class Progress:
    """Where training stands. loss: mean of the running epoch in nats so far, or of the last one at its end.

    A batch counts once for each step on it (see `workers.methods.base.Replayed`).
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float | None = None
    robust_error: float | None = None

    @property
    def fraction(self) -> float:
        """Share of training that is done, in [0, 1]."""
        return (self.epoch + self.batch / self.batches) / self.epochs


class Trainer:
    """One trial's network, optimizer and components, restored from the newest checkpoint if there is one.

    Args:
        trial: what to train.
        splits: the data, on the device.
        folder: of the checkpoints; None to keep none.
        device: where to train.
    """

    def __init__(self, trial: Trial, splits: Splits, folder: Folder | None, device: torch.device) -> None:
        self.trial, self.splits, self.folder, self.device = trial, splits, folder, device
        self.model: Classifier = build_classifier(trial.model, splits, trial.seed, device)
        self.method: Method = trial.method.load()(trial.method)
        self.regularizers = [(spec.name, spec.load()(spec)) for spec in trial.regularizers]
        self._extend_network()
        self.optimizer = self._build_optimizer()
        self.batches = self._build_batches()
        self.replays = self.method.replays if isinstance(self.method, Replayed) else 1
        self.step_policy = self._find_step_policy()
        twice = any(isinstance(part, Penalty) for _, part in self.regularizers)
        self.computing = Computing(trial.training, self.model, twice)
        self._made: tuple[tuple[int, int], Tensor, Labels] | None = None
        # whole epochs, and steps of the running one, that are done: a batch counts once for each of its replays
        self.epoch, self.next_batch, self.seconds = 0, 0, 0.0
        self._saved = time.monotonic()
        # sums over the running epoch: loss, examples wrong at the method's own inputs, examples
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.selection = Selection(trial, splits.validation, folder / layout.SNAPSHOTS if folder else None, device)
        if folder is not None and (state := checkpoints.newest(folder, device)) is not None:
            self._load(state)

    @property
    def trained(self) -> bool:
        """Whether all epochs are trained."""
        return self.epoch >= self.trial.training.epochs

    @property
    def finished(self) -> bool:
        """Whether all epochs are trained, and the networks of those that are to be kept are."""
        return self.trained and not self.selection.due(self.epoch)

    @property
    def steps_per_epoch(self) -> int:
        """One for each batch and replay."""
        return len(self.batches) * self.replays

    def run(self, recorder: Recorder | None = None) -> Generator[Progress, None, Classifier]:
        """Trains to the end; yields after every step. Closing the generator saves a checkpoint in mid-epoch.

        Raises:
            DivergedError: the loss is not finite or beyond `DIVERGED_LOSS`.
        """
        try:
            # an epoch's network is looked at when its checkpoint is there, so that a stop meanwhile costs nothing
            yield from self._select(recorder)
            while not self.trained:
                self._begin_epoch()
                while self.next_batch < self.steps_per_epoch:
                    started = time.perf_counter()
                    self._step(self.next_batch)
                    self.next_batch += 1
                    self.seconds += time.perf_counter() - started
                    faults.point("train/batch")
                    self._save_within_epoch()
                    yield Progress(self.epoch, self.trial.training.epochs, self.next_batch, self.steps_per_epoch)
                yield self._end_epoch(recorder)
                yield from self._select(recorder)
        except GeneratorExit:
            if self._is_finite():
                self.save()
            raise
        return self.model

    def save(self) -> None:
        """Writes a checkpoint of this very moment."""
        if self.folder is not None:
            checkpoints.save(self.folder, self.epoch, self.next_batch, self._state())
        self._saved = time.monotonic()

    def _save_within_epoch(self) -> None:
        """Saves if the last checkpoint is as old as `checkpoint_minutes`; an epoch's end saves by itself."""
        minutes = self.trial.training.checkpoint_minutes
        if minutes is None or self.next_batch == self.steps_per_epoch:
            return
        if time.monotonic() - self._saved >= 60 * minutes and self._is_finite():
            self.save()

    def _step(self, number: int) -> None:
        """One step: regularisers - attack - loss at perhaps perturbed weights - optimizer - regularisers."""
        index, replay = divmod(number, self.replays)
        purpose = (self.epoch, index, replay) if replay else (self.epoch, index)
        # whatever draws from torch's global generator, such as dropout, draws as a function of (seed, epoch, step)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed_of(self.trial.seed, "step", *purpose))
            self._seeded_step(number, generator(self.device, self.trial.seed, "attack", *purpose))

    def _seeded_step(self, number: int, random: torch.Generator) -> None:
        training = self.trial.training
        progress = (self.epoch + number / self.steps_per_epoch) / training.epochs
        self._set_learning_rate(progress * training.epochs)
        x, labels = self._batch(number // self.replays)
        self.model.train()
        with self.computing.step(x, labels.index):
            x_adv = self.method.attack(self.model, x, labels, training.attack, random)
            if number == 0 or faults.armed():  # once an epoch: looking waits for a GPU
                self._check_in_box(x_adv)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._backward(x, x_adv, labels)
        if training.clip_gradient is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), training.clip_gradient)
        stepped = self._move_weights()
        self.optimizer.zero_grad(set_to_none=True)
        for _, regularizer in self.regularizers if stepped else ():
            if isinstance(regularizer, AfterStep):
                regularizer.after_step(self.model, progress + 1 / self.steps_per_epoch / training.epochs)
        wrong = (loss.logits.detach().argmax(1) != labels.index).sum()
        self.sums += torch.stack(
            [loss.value.detach().double() * len(x), wrong.double(), wrong.new_tensor(len(x)).double()]
        )

    def _check_in_box(self, x_adv: Tensor) -> None:
        low, high = x_adv.detach().min().item(), x_adv.detach().max().item()
        if low < -BOX_TOLERANCE or high > 1 + BOX_TOLERANCE:
            raise ValueError(
                f"the attack of '{self.trial.method.name}' made inputs from {low:g} to {high:g}: images are in [0, 1]"
            )

    def _is_finite(self) -> bool:
        """Whether a checkpoint of this moment would be of use: one with NaN or infinities diverges for ever."""
        floats = (tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point())
        return all(bool(torch.isfinite(tensor).all()) for tensor in (self.sums, *floats))

    def _batch(self, index: int) -> tuple[Tensor, Labels]:
        """A batch of the running epoch as the regularisers make it; made once for all its replays."""
        purpose = (self.epoch, index)
        if self._made is None or self._made[0] != purpose:
            x, y = self.batches.batch(*purpose)
            labels = Labels(y, self.splits.classes)
            for name, regularizer in self.regularizers:
                if isinstance(regularizer, BatchTransform):
                    random = generator(self.device, self.trial.seed, name, *purpose)
                    x, labels = regularizer.transform(x, labels, random)
            self._made = purpose, x, labels
        return self._made[1:]

    def _backward(self, x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """Sets the gradient of the step's loss, taken at the weights that the parts perturb them to."""
        if isinstance(self.method, Replayed):
            x_adv = x_adv.detach().requires_grad_(True)
        with contextlib.ExitStack() as perturbed:
            for part in self._parts():
                if isinstance(part, WeightPerturbation):
                    perturbed.enter_context(
                        part.applied(self.model, lambda: self._loss(x, x_adv, labels).value, self.epoch)
                    )
            loss = self._loss(x, x_adv, labels)
            loss.value.backward()  # type: ignore[no-untyped-call]
        if isinstance(self.method, Replayed) and x_adv.grad is not None:
            self.method.after_backward(x_adv.grad, self.trial.training.attack)
        return loss

    def _move_weights(self) -> bool:
        """The optimizer's step, or what the step policy makes of it; says whether the optimizer has stepped."""
        if self.step_policy is not None:
            return self.step_policy.step(self.model, self.optimizer)
        self.optimizer.step()
        return True

    def _loss(self, x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """The method's loss and the regularisers' penalties."""
        loss = self.method.loss(self.model, x, x_adv, labels)
        for _, regularizer in self.regularizers:
            if isinstance(regularizer, Penalty):
                loss = loss._replace(value=loss.value + regularizer.penalty(self.model, x, x_adv, labels))
        return loss

    def _parts(self) -> list[object]:
        """The method and the regularisers, in the order in which they act."""
        return [self.method, *(regularizer for _, regularizer in self.regularizers)]

    def _extend_network(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.trial.seed, "network extensions"))
            for part in self._parts():
                if isinstance(part, NetworkPolicy):
                    part.extend(self.model)
        self.model.to(self.device)

    def _begin_epoch(self) -> None:
        for part in self._parts():
            if isinstance(part, Scheduled):
                part.begin_epoch(self.epoch, self.trial.training.epochs)

    def _end_epoch(self, recorder: Recorder | None) -> Progress:
        loss_sum, wrong, count = self.sums.tolist()
        loss = loss_sum / count
        if not math.isfinite(loss) or loss > DIVERGED_LOSS:
            raise DivergedError(
                f"training diverged in epoch {self.epoch}: mean loss {loss:g} "
                f"(learning rate {self._learning_rate():g}; a loss above {DIVERGED_LOSS:g} or not finite ends a trial)"
            )
        if not self._is_finite():
            raise DivergedError(f"training diverged in epoch {self.epoch}: its steps left weights that are not finite")
        if recorder is not None:
            values = {
                "train/loss": loss,
                "train/error": wrong / count,
                "train/lr": self._learning_rate(),
                "train/seconds": self.seconds,
            }
            recorder.metrics(values, step=self.epoch + 1)
        faults.point("train/epoch")
        self.epoch, self.next_batch, self.seconds = self.epoch + 1, 0, 0.0
        self.sums.zero_()
        self._end_of_epoch_hooks()
        self.save()
        epochs = self.trial.training.epochs
        return Progress(self.epoch, epochs, 0, self.steps_per_epoch, loss, wrong / count)

    def _end_of_epoch_hooks(self) -> None:
        size = self.trial.training.batch_size
        with contextlib.ExitStack() as looked_at:
            if isinstance(self.step_policy, FinalWeights):  # what it trains for may not be where the weights are now
                looked_at.enter_context(restored(list(self.model.parameters())))
                self.step_policy.finish(self.model, self.splits.train, size)
            for _, regularizer in self.regularizers:
                if isinstance(regularizer, AfterEpoch):
                    regularizer.after_epoch(self.model, self.epoch / self.trial.training.epochs)
        if self.trained:
            self._finish(self.model)

    def _finish(self, model: Classifier) -> None:
        """Puts the weights that are measured into `model`."""
        for _, regularizer in self.regularizers:
            if isinstance(regularizer, FinalWeights):
                regularizer.finish(model, self.splits.train, self.trial.training.batch_size)

    def _select(self, recorder: Recorder | None) -> Generator[Progress, None, None]:
        """Looks at the network of the epoch that was just trained, if that is due."""
        if self.next_batch or not self.selection.due(self.epoch):
            return
        model = copy.deepcopy(self.model)
        if not self.trained:
            self._finish(model)
        for _ in self.selection.look(model, self.epoch, recorder):
            yield Progress(self.epoch, self.trial.training.epochs, 0, self.steps_per_epoch)

    def _build_batches(self) -> TrainingBatches:
        trial, unlabeled = self.trial, self.trial.unlabeled
        plain = (self.splits.train, trial.data, trial.training.batch_size, trial.seed)
        if unlabeled is None:
            return TrainingBatches(*plain)
        if self.splits.unlabeled is None or bool((self.splits.unlabeled.y < 0).any()):
            raise ValueError("the images without labels need pseudo-labels: see workers.pseudo_labels")
        return TrainingBatches(*plain, self.splits.unlabeled, unlabeled.fraction)

    def _find_step_policy(self) -> StepPolicy | None:
        found = {name: regularizer for name, regularizer in self.regularizers if isinstance(regularizer, StepPolicy)}
        if len(found) > 1:
            raise ValueError(f"{' and '.join(found)} each take the optimizer's step in their own way: give one of them")
        return next(iter(found.values()), None)

    def _build_optimizer(self) -> torch.optim.Optimizer:
        settings = self.trial.training.optimizer
        for _, regularizer in self.regularizers:
            if isinstance(regularizer, OptimizerPolicy):
                settings = regularizer.optimizer(settings)
        optimizer: torch.optim.Optimizer = settings.load()(
            self.model.parameters(), **settings.model_dump(exclude={"name"})
        )
        return optimizer

    def _set_learning_rate(self, epoch: float) -> None:
        training = self.trial.training
        factor = training.schedule.factor(epoch, training.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = training.optimizer.lr * factor

    def _learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "next_batch": self.next_batch,
            "seconds": self.seconds,
            "sums": self.sums,
            "parts": [part.state_dict() if isinstance(part, Stateful) else {} for part in self._parts()],
            "trial_id": self.trial.trial_id,
        }

    def _load(self, state: dict[str, Any]) -> None:
        if state["trial_id"] != self.trial.trial_id:
            raise ValueError(f"the checkpoint is of trial {state['trial_id']}, not of {self.trial.trial_id}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.next_batch, self.seconds = state["epoch"], state["next_batch"], state["seconds"]
        self.sums = state["sums"].to(self.device)
        parts = self._parts()
        # checkpoints from before there were stateful parts have no such entry
        for part, held in zip(parts, state.get("parts", [{} for _ in parts]), strict=True):
            if isinstance(part, Stateful):
                part.load_state_dict(held)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over every tensor of the state dict, in hex: equal for networks that are equal bit for bit."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return total.hexdigest()
