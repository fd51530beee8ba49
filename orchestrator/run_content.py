"""What a new run of a trial, or of a network from elsewhere, holds before anybody has worked on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.spec.base import Spec, flatten
from orchestrator.spec.external import METHOD as EXTERNAL
from orchestrator.spec.external import External
from orchestrator.spec.sweep import Evaluation, Trial
from workers import layout

MAX_PARAM = 6000
"""MLflow's limit: characters in a value."""


@dataclass(frozen=True)
class RunContent:
    """Name, tags, parameters and the file that says it all."""

    name: str
    tags: dict[str, str]
    """Ours, without prefix."""
    params: dict[str, str]
    file: str
    """Name of the artifact with `data`."""
    data: dict[str, Any]

    @classmethod
    def of_trial(cls, trial: Trial, evaluation: Evaluation) -> "RunContent":
        """Of a trial that is to be measured with `evaluation`."""
        tags = {
            "trial_id": trial.trial_id,
            "wanted_evaluation_id": evaluation.evaluation_id,
            "method": trial.method.label(),
            "method_name": trial.method.name,
            "regularizer": trial.regularizer_label,
            "seed": str(trial.seed),
        }
        return cls(trial.label(), tags, _params(trial), layout.TRIAL, trial.model_dump(mode="json"))

    @classmethod
    def of_external(cls, external: External, source: Mapping[str, str]) -> "RunContent":
        """Of a network that was not trained here, like a trial's.

        Args:
            external: what it is called, and what it is measured with.
            source: where it comes from, recorded as parameters beside those of `external`.
        """
        tags = {"trial_id": external.external_id, "method": external.method, "method_name": EXTERNAL}
        tags |= {"regularizer": "none", "seed": "0"}
        params = _params(external, source)
        return cls(external.method, tags, params, layout.EXTERNAL, external.model_dump(mode="json"))


def _params(spec: Spec, more: Mapping[str, str] | None = None) -> dict[str, str]:
    values = flatten(spec.model_dump(mode="json")) | dict(more or {})
    return {key: str(value)[:MAX_PARAM] for key, value in values.items() if value is not None}
