"""What a tracking store holds of one trial."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import UserError
from orchestrator.spec.external import METHOD as EXTERNAL
from orchestrator.spec.sweep import NAME_PATTERN


@dataclass(frozen=True)
class TrialRun:
    """What the store holds of one trial."""

    run_id: str
    trial_id: str
    status: str
    """MLflow's."""
    state: str
    """Ours: pending, running, interrupted, finished, failed."""
    evaluation_id: str
    error_class: str
    error: str
    tags: dict[str, str]
    """Ours, without prefix."""
    metrics: dict[str, float]
    """The latest value of each, without `sink.CHANGED`."""
    params: dict[str, str]
    started_ms: int = 0
    """When it was made, in ms since 1970."""
    changed_ms: int = 0
    """When flatsweep last changed it; 0 for a run of a version that did not say so."""
    curves: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Values at the epochs before the last whose networks were measured; only where they were asked for."""

    @classmethod
    def of(
        cls,
        run_id: str,
        status: str,
        tags: dict[str, str],
        metrics: dict[str, float],
        params: dict[str, str],
        started_ms: int,
        changed_ms: int,
    ) -> "TrialRun":
        """A run by what is stored of it: trial, state and error stand in its tags.

        Raises:
            UserError: its trial's id could not be one. Ids name folders, which writers of tags are not to choose.
        """
        if not NAME_PATTERN.fullmatch(tags.get("trial_id", "")):
            raise UserError(
                f"run {run_id} of the tracking store says that its trial is {tags.get('trial_id', '')!r}, which is no "
                f"trial's id: somebody changed its tag flatsweep.trial_id; delete the run, or put the tag right"
            )
        return cls(
            run_id=run_id,
            trial_id=tags.get("trial_id", ""),
            status=status,
            state=tags.get("state", "pending"),
            evaluation_id=tags.get("evaluation_id", ""),
            error_class=tags.get("error_class", ""),
            error=tags.get("error", ""),
            tags=tags,
            metrics=metrics,
            params=params,
            started_ms=started_ms,
            changed_ms=changed_ms,
        )

    @classmethod
    def of_mlflow(cls, run: Any) -> "TrialRun":
        """A run as MLflow has it."""
        from orchestrator.sink import CHANGED, TAG

        tags = {key.removeprefix(TAG): text for key, text in run.data.tags.items() if key.startswith(TAG)}
        metrics = dict(run.data.metrics)
        changed_ms = int(metrics.pop(CHANGED, 0))
        info = run.info
        started_ms = int(info.start_time or 0)
        return cls.of(info.run_id, info.status, tags, metrics, dict(run.data.params), started_ms, changed_ms)

    @property
    def is_external(self) -> bool:
        """Whether it is of a network that was not trained here, and so of no cell of the grid."""
        return self.tags.get("method_name") == EXTERNAL
