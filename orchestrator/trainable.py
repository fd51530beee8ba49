"""What Ray Tune runs: an actor that advances one trial after another in short slices, and stays warm between them."""

import logging
import socket
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypedDict

from ray import tune

if TYPE_CHECKING:
    from workers.measurement import Measuring
    from workers.training import Progress
    from workers.unsent import Unsent

logger = logging.getLogger(__name__)

SLICE_SECONDS = 1.0
"""How long an actor works before it looks up: how often progress is shown, and how soon a stop is heard."""
NO_GPU = "resources.gpu asks for a GPU, but PyTorch sees none on {host}: trials run on its CPU there"


class Assignment(TypedDict):
    """One trial as it is handed to Ray: plain JSON data."""

    trial: str
    evaluation: str
    """Empty for a trial that is trained only."""
    measure_only: bool
    """Measure a trained trial beside what is recorded of it; nothing else."""
    folder: str
    tracking_uri: str
    """Without the password that it may have; the worker's own MLFLOW_TRACKING_URI has it then."""
    run_id: str
    trial_id: str
    cpu: float
    gpu: float


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Runs trials. Its death is Ray's to mend; an error of the trial is recorded and ends that trial only."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Ray in a fresh worker process."""
        import torch

        from workers.share import take_share

        self._steps: Generator[Progress | Measuring, None, dict[str, float]] | None = None
        # so that trials side by side do not fight for cores, or for a GPU's memory
        take_share(config["assignment"]["cpu"], config["assignment"]["gpu"])
        torch.backends.cudnn.deterministic = True
        self._begin(config["assignment"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Ray to give a warm worker its next trial."""
        self.cleanup()
        self._begin(new_config["assignment"])
        return True

    def _begin(self, assignment: Assignment) -> None:
        import torch

        from orchestrator.addresses import completed
        from orchestrator.sink import RunSink
        from workers.assigned import assigned_steps
        from workers.storage import Folder

        folder = Folder(assignment["folder"])
        on_gpu = assignment["gpu"] > 0 and torch.cuda.is_available()
        self._warning = {} if on_gpu or not assignment["gpu"] else {"warning": NO_GPU.format(host=socket.gethostname())}
        self._sink = RunSink(completed(assignment["tracking_uri"]), assignment["run_id"], folder)
        self._steps = assigned_steps(
            assignment["trial"],
            assignment["evaluation"],
            folder,
            measure_only=assignment["measure_only"],
            sink=self._sink,
            device="cuda" if on_gpu else "cpu",
        )

    def step(self) -> dict[str, Any]:
        """Advances the trial for about `SLICE_SECONDS`; the result says where it stands."""
        from workers.failures import classify
        from workers.trial import described

        assert self._steps is not None  # noqa: S101
        until = time.monotonic() + SLICE_SECONDS
        shown = dict[str, Any](self._warning)
        try:
            while time.monotonic() < until:
                shown |= _shown(next(self._steps))
        except StopIteration:
            return shown | _waiting(self._sink.waits) | {"done": True, "state": "finished"}
        except Exception as error:
            kind = classify(error)
            if kind.passing:
                raise
            logger.exception("the trial failed")
            ended = {"done": True, "state": "failed", "error_class": str(kind), "error": described(error)}
            return shown | _waiting(self._sink.waits) | ended
        return shown | _waiting(self._sink.waits) | {"done": False, "state": "running"}

    def cleanup(self) -> None:
        """Called by Ray when the trial is stopped: saves a checkpoint in mid-epoch if it was training."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None


def _waiting(waits: "Unsent | None") -> dict[str, Any]:
    """What has been waiting for the tracking store; always said, as a later result takes the place of this one."""
    if waits is None:
        return {"unsent_records": 0}
    seconds = waits.seconds(int(time.time() * 1000))
    return {"unsent_records": waits.records, "unsent_seconds": seconds, "unsent_reason": waits.reason}


def _shown(progress: "Progress | Measuring") -> dict[str, Any]:
    from workers.training import Progress

    if not isinstance(progress, Progress):
        name = progress.measure if progress.network == "last" else f"{progress.measure} ({progress.network})"
        return {"phase": name, "fraction": progress.tick.done / progress.tick.total}
    shown = {"phase": "train", "epoch": progress.epoch, "epochs": progress.epochs, "fraction": progress.fraction}
    return shown if progress.loss is None else shown | {"loss": progress.loss, "robust_error": progress.robust_error}
