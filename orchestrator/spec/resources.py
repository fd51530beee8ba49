"""What one trial occupies on a cluster. No part of a trial's identity: where it runs does not make it another one."""

from typing import Annotated

from pydantic import Field, field_validator

from orchestrator.spec.base import Integer, Number, Spec

ACCELERATOR = "accelerator_type:"
"""What Ray puts before the kind of a node's accelerator, in the name of the resource that marks the node."""
OWN_FIELDS = {"cpu", "gpu"}
"""What `custom` must not name, as it has a field of its own."""
KEPT_BY_RAY = {"memory", "object_store_memory"}


class Resources(Spec):
    """What one trial occupies."""

    cpu: Annotated[Number, Field(gt=0)] = 1
    """CPU cores; the trial's numerical libraries use as many threads, rounded up."""
    gpu: Annotated[Number, Field(ge=0)] = 0
    """GPUs; a fraction such as 1/4 packs so many trials on one, each with that share of its memory."""
    accelerator_type: Annotated[str, Field(min_length=1)] | None = None
    """Kind of GPU that a node must have, as Ray calls it: `H100`, `A100`, `RTX-PRO-6000`. Left out: any node."""
    custom: dict[str, Annotated[Number, Field(gt=0)]] = Field(default_factory=dict)
    """Amounts of resources that nodes were given a name for (`ray start --resources`), such as `{fast_disk: 1}`."""
    max_concurrent: Annotated[Integer, Field(ge=1)] | None = None
    """Trials that run at once at most, however many fit. Left out: as many as fit."""
    max_retries: Annotated[Integer, Field(ge=0, le=100)] = 3
    """How often a trial goes on from its last checkpoint after its worker or storage was lost."""

    @field_validator("gpu")
    @classmethod
    def _whole_above_one(cls, gpu: float) -> float:
        if gpu > 1 and not gpu.is_integer():
            raise ValueError(f"{gpu:g} is neither a fraction of one GPU nor a number of whole ones")
        return gpu

    @field_validator("custom")
    @classmethod
    def _free_names(cls, custom: dict[str, float]) -> dict[str, float]:
        for name in custom:
            if name.lower() in OWN_FIELDS:
                raise ValueError(f"'{name}' has a field of its own: resources.{name.lower()}")
            if name.startswith(ACCELERATOR):
                raise ValueError(f"'{name}' has a field of its own: resources.accelerator_type")
            if not name or name in KEPT_BY_RAY:
                raise ValueError(f"'{name}' is no name of a custom resource")
        return custom
