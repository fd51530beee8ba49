"""The fields of KubeRay's RayJob and RayCluster that a manifest may have, and of what kind they are.

Written down from the reference of `ray.io/v1` in KubeRay 1.7.0 (the CRDs in its Helm chart, and what its operator
refuses: ray-operator/controllers/ray/utils/validation.go), as no package has these schemas. Groups of fields that the
guides do not use are left out, so that a manifest with them fails until they are added here. What is Kubernetes' own,
pod templates first of all, is left to Kubernetes' schemas.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=0)]
OLDEST_WITH_TOKENS = (2, 52)
"""Ray that the operator gives a token."""


class Strict(BaseModel):
    """Nothing unknown, nothing of another kind."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AuthOptions(Strict):
    mode: Literal["disabled", "token"]
    secretName: str | None = None


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"] | None = None
    idleTimeoutSeconds: Count | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    resources: dict[str, Any] | None = None


class Group(Strict):
    rayStartParams: dict[str, str] = {}
    template: dict[str, Any]


class HeadGroup(Group):
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] | None = None


class WorkerGroup(Group):
    groupName: str
    replicas: Count | None = None
    minReplicas: Count
    maxReplicas: Count
    idleTimeoutSeconds: Count | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.minReplicas <= (self.replicas or self.minReplicas) <= self.maxReplicas:
            raise ValueError(f"group {self.groupName}: minReplicas <= replicas <= maxReplicas does not hold")
        return self


class RayCluster(Strict):
    rayVersion: str
    authOptions: AuthOptions | None = None
    enableInTreeAutoscaling: bool | None = None
    autoscalerOptions: AutoscalerOptions | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]

    @model_validator(mode="after")
    def _accepted(self) -> Self:
        version = tuple(map(int, self.rayVersion.split(".")[:2]))
        if self.authOptions and self.authOptions.mode == "token" and version < OLDEST_WITH_TOKENS:
            raise ValueError(f"Ray {self.rayVersion} has no tokens")
        if self.autoscalerOptions and self.autoscalerOptions.version == "v2":
            for group in (self.headGroupSpec, *self.workerGroupSpecs):
                if group.template["spec"].get("restartPolicy", "Never") != "Never":
                    raise ValueError("restartPolicy is Never or unset with the autoscaler v2")
        return self


class RayJob(Strict):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = "K8sJobMode"
    entrypointNumCpus: float | None = None
    backoffLimit: Count | None = None
    activeDeadlineSeconds: Annotated[int, Field(ge=1)] | None = None
    preRunningDeadlineSeconds: Annotated[int, Field(ge=1)] | None = None
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: Count = 0
    suspend: bool | None = None
    rayClusterSpec: RayCluster

    @model_validator(mode="after")
    def _accepted(self) -> Self:
        if self.ttlSecondsAfterFinished and not self.shutdownAfterJobFinishes:
            raise ValueError("ttlSecondsAfterFinished needs shutdownAfterJobFinishes")
        if self.submissionMode == "InteractiveMode" and self.backoffLimit:
            raise ValueError("backoffLimit is not for InteractiveMode")
        return self
