"""Networks of single epochs beside the last one: the best on the validation images, and every k-th.

They are kept as they would be measured: with averaged weights in place, where a regulariser averages. What was found
is written down in the folder of the snapshots, so that a trial that goes on looks at no epoch twice.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from orchestrator.spec.sweep import Trial
from workers import layout
from workers.checkpoints import packed, unpacked
from workers.data.splits import Images
from workers.failures import DataError, StorageError
from workers.measures.robust_loss import clean_examples, robust_examples
from workers.models.classifier import Classifier
from workers.recorder import Recorder
from workers.sealed import sealed, unsealed
from workers.seeding import seed_of
from workers.steps import Steps
from workers.storage import Folder

BATCH_SIZE = 1000
"""Validation images attacked at once; changes nothing but rounding."""


@dataclass(frozen=True)
class Best:
    """The best epoch so far (from 1), its robust error (fraction) and loss (nats) on the validation images."""

    epoch: int
    robust_error: float
    robust_loss: float


class Selection:
    """Which epochs' networks a trial keeps.

    Args:
        trial: says what is kept.
        validation: the images that early stopping looks at.
        folder: of the snapshots; None keeps them in memory.
        device: where networks are.

    Raises:
        DataError: the note of what was found so far is damaged.
    """

    def __init__(self, trial: Trial, validation: Images, folder: Folder | None, device: torch.device) -> None:
        self._trial, self._folder, self._device = trial, folder, device
        self._stopping = trial.training.early_stopping
        self._images = validation.first(self._stopping.examples if self._stopping else 0)
        self._in_memory: dict[int, dict[str, Any]] = {}
        self._looked = 0
        self.best: Best | None = None
        if folder is not None and folder.exists(layout.SELECTION):
            self._looked, self.best = self._noted(folder)

    def _noted(self, folder: Folder) -> tuple[int, Best]:
        """The last epoch that was looked at, and the best one."""
        try:
            found = unsealed(folder.read(layout.SELECTION), looked=int, best=dict)
            best = Best(**found["best"])
            if not all(type(value) in {int, float} for value in asdict(best).values()) or type(best.epoch) is not int:
                raise ValueError("a value is no number")
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{folder}/{layout.SELECTION} is damaged, and so which epoch was the best is not known ({error}): "
                f"`flatsweep rerun --from-scratch --trial {self._trial.trial_id}` trains it again"
            ) from error
        return found["looked"], best

    def due(self, epoch: int) -> bool:
        """Whether there is something to do with the network after `epoch` whole epochs."""
        return self._to_look_at(epoch) or self._to_keep(epoch)

    def look(self, model: Classifier, epoch: int, recorder: Recorder | None) -> Steps[None]:
        """Judges and keeps a network.

        Args:
            model: as it would be measured after `epoch` whole epochs.
            epoch: from 1.
            recorder: gets `validation/robust_error` (fraction) and `validation/robust_loss` (nats).
        """
        found = self.best
        if self._to_look_at(epoch):
            here = yield from self._judged(model, epoch)
            if recorder is not None:
                recorder.metrics(
                    {"validation/robust_error": here.robust_error, "validation/robust_loss": here.robust_loss}, epoch
                )
            if found is None or (here.robust_error, here.robust_loss) < (found.robust_error, found.robust_loss):
                found = here
        if (found is not None and found.epoch == epoch) or self._to_keep(epoch):
            self._keep(model, epoch)
        before, self.best, self._looked = self.best, found, epoch
        if self._folder is not None and found is not None:
            self._folder.write(layout.SELECTION, sealed({"looked": epoch, "best": asdict(found)}))
        if before is not None and before != found and before.epoch not in self._trial.training.kept_epochs:
            self._drop(before.epoch)

    def kept(self) -> list[int]:
        """Epochs whose networks are there."""
        return sorted(self._files()) if self._folder is not None else sorted(self._in_memory)

    def weights(self, epoch: int) -> dict[str, Any]:
        """The state dict of the network after `epoch` whole epochs.

        Raises:
            StorageError: it is not there, or damaged.
        """
        if self._folder is None:
            return self._in_memory[epoch]
        name = self._files().get(epoch)
        state = unpacked(self._folder, name, self._device) if name else None
        if state is None:
            raise StorageError(
                f"the network of epoch {epoch} is not in {self._folder} or is damaged: "
                f"`flatsweep rerun --from-scratch --trial {self._trial.trial_id}` trains it again"
            )
        return state

    def _to_look_at(self, epoch: int) -> bool:
        if self._stopping is None or epoch <= self._looked:
            return False
        return epoch % self._stopping.every == 0 or epoch == self._trial.training.epochs

    def _to_keep(self, epoch: int) -> bool:
        return epoch in self._trial.training.kept_epochs and epoch not in self.kept()

    def _judged(self, model: Classifier, epoch: int) -> Steps[Best]:
        assert self._stopping is not None  # noqa: S101  (only asked where there is early stopping)
        attack = self._stopping.attack.resolve(self._trial.training.attack)
        clean = clean_examples(model, self._images, BATCH_SIZE)
        # the same random starts in every epoch, so that epochs differ by their networks alone
        seed = seed_of(self._trial.seed, "validation")
        robust = yield from robust_examples.steps(model, self._images, attack, BATCH_SIZE, seed)
        return Best(epoch, float((robust.wrong | clean.wrong).double().mean()), robust.mean_loss())

    def _keep(self, model: Classifier, epoch: int) -> None:
        state = model.state_dict()
        if self._folder is None:
            self._in_memory[epoch] = {key: tensor.clone() for key, tensor in state.items()}
        else:
            content, content_hash = packed(state)
            self._folder.write(layout.snapshot_name(epoch, content_hash), content)

    def _drop(self, epoch: int) -> None:
        if self._folder is None:
            self._in_memory.pop(epoch, None)
        elif name := self._files().get(epoch):
            self._folder.delete_files([name])

    def _files(self) -> dict[int, str]:
        assert self._folder is not None  # noqa: S101
        parsed = ((layout.parse_snapshot(name), name) for name in self._folder.names())
        return {found[0]: name for found, name in parsed if found}
