"""Measures of the loss's curvature in weight space (SCIENCE.md section 7). Implementations live in workers/measures."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.spec.base import Integer, Number, problem
from orchestrator.spec.measures import MEASURES, Count, ImageMeasure, attack_passes
from orchestrator.spec.training import Attack, EvaluationAttack

SomeRadii = tuple[Annotated[Number, Field(ge=0)], ...]
PRODUCT_PASSES = 4.5
"""A Hessian-vector product in forward-backward passes: forward, backward with a graph, and back through both."""


class FixedExamples(ImageMeasure):
    """What is measured at examples that are found once, at the trained weights, and then stay as they are."""

    loss: Literal["robust", "clean"] = "robust"
    """`robust`: at adversarial examples that are found at the trained weights and then fixed; `clean`: at the images
    as they are."""
    attack: EvaluationAttack = EvaluationAttack()
    """The attack behind the robust loss; PGD-20 by default."""
    examples: Count = 1000
    """First so many images of the split (fewer if there are fewer)."""
    split: Literal["test", "train"] = "test"
    """Which images; those of training un-augmented."""
    batch_size: Count = 128
    """Images in one graph: bounds the memory, changes results by rounding only."""

    def key(self, value: str) -> str:
        """Name of a value: the robust loss on test images has no ending."""
        return value + ("" if self.loss == "robust" else "_clean") + ("" if self.split == "test" else "_train")

    def attacked_passes(self, attack: Attack) -> float:
        """Passes of one image until the examples are there."""
        return attack_passes(self.attack.resolve(attack)) + 0.5 if self.loss == "robust" else 0.5


@MEASURES.register
class Curvature(FixedExamples):
    """Largest and smallest eigenvalues, trace and spectral density of the loss's Hessian in all weight matrices."""

    implementation = "workers.measures.curvature:curvature"
    presets = {  # noqa: RUF012  (a class variable of the base)
        "quick": {
            "eigenvalues": 1, "lanczos_steps": 24, "max_products": 24, "probes": 20, "density_probes": 0,
            "examples": 300, "attack": {"steps": 10},
        },
        "paper": {"eigenvalues": 1, "lanczos_steps": 100, "max_products": 200, "trace": "hutchinson", "probes": 100,
                  "density_probes": 1, "split": "train"},
    }  # fmt: skip

    name: Literal["curvature"] = "curvature"
    eigenvalues: Annotated[Integer, Field(ge=1, le=100)] = 5
    """Largest eigenvalues that are reported."""
    tolerance: Annotated[Number, Field(gt=0, lt=1)] = 1e-3
    """Largest residual ||Hv - lambda v|| of an eigenvector v of length 1 relative to the largest |lambda|; the
    eigenvalue is then off by at most that much, usually by its square."""
    lanczos_steps: Annotated[Integer, Field(ge=4, le=1000)] = 64
    """Lanczos vectors that are kept in memory before the iteration restarts; also the nodes of the density."""
    max_products: Annotated[Integer, Field(ge=4)] = 256
    """Hessian-vector products after which the search for eigenvalues gives up and says so."""
    trace: Literal["exact", "hutchinson", "hutch++"] = "exact"
    """`exact`: without probes where the network is piecewise linear in the weights of each layer (ReLU and the like);
    else what the Gauss-Newton part leaves is estimated from probes of each example's own. `hutchinson`: mean over
    probes that all examples share. `hutch++`: a third of those finds the large eigenvalues, a third measures them, a
    third estimates the rest (Meyer et al. 2021, arXiv 2010.09649)."""
    probes: Annotated[Integer, Field(ge=6)] = 100
    """Hessian-vector products behind an estimated trace."""
    density_probes: Annotated[Integer, Field(ge=0)] = 1
    """Random starts of the spectral density; the first costs nothing beside the eigenvalues. 0: no density."""

    def keys(self) -> tuple[str, ...]:
        """Eigenvalues from the largest, the smallest, |smallest| / largest, the trace and its standard error."""
        largest = (self.key(f"hessian_eigenvalue{rank + 1}") for rank in range(self.eigenvalues))
        trace = self.key("hessian_trace")
        return (*largest, self.key("hessian_smallest"), self.key("hessian_ratio"), trace, trace + "_se")

    def passes(self, attack: Attack) -> float:
        """The attack, and all products as if none had converged early."""
        further = max(self.density_probes - 1, 0) * self.lanczos_steps
        products = max(self.max_products, self.lanczos_steps) + further + self.probes
        return self.examples * (self.attacked_passes(attack) + PRODUCT_PASSES * products)


@MEASURES.register
class WeightCurvatureIndex(FixedExamples):
    """Weight-Curvature Index: sum over layers of sqrt(||W_l||_F^2 * max(Tr H_l, 0)) (our reading of WCI24)."""

    implementation = "workers.measures.wci:wci"
    presets = {  # noqa: RUF012
        "quick": {"examples": 300, "attack": {"steps": 10}, "standard_error": 0.1, "max_probes": 100},
        "paper": {"split": "train"},
    }

    name: Literal["wci"] = "wci"
    traces: Literal["exact", "hutchinson"] = "exact"
    """`exact`: without probes where the network is piecewise linear in the weights of each layer (ReLU and the like);
    else what the Gauss-Newton part leaves is estimated from probes of each example's own. `hutchinson`: from probes
    that all examples share."""
    standard_error: Annotated[Number, Field(gt=0, lt=1)] = 0.02
    """Estimated traces: probes are added until the standard error of the index, relative to it, is at most this."""
    max_probes: Annotated[Integer, Field(ge=20)] = 1000
    """Hessian-vector products after which estimating gives up and says so."""

    def keys(self) -> tuple[str, ...]:
        """The index, and its standard error over probes: 0 where the traces are exact."""
        return self.key("wci"), self.key("wci") + "_se"

    def passes(self, attack: Attack) -> float:
        """The attack, and all products, though exact traces need none."""
        return self.examples * (self.attacked_passes(attack) + PRODUCT_PASSES * self.max_probes)


@MEASURES.register
class AdaptiveSharpness(FixedExamples):
    """Increase of the loss under weight noise, on average and at worst, in units of each weight (Andriushchenko23)."""

    implementation = "workers.measures.adaptive_sharpness:adaptive_sharpness"
    presets = {  # noqa: RUF012
        "quick": {"draws": 5, "linf_rho": (0.002,), "l2_rho": (), "steps": 10, "examples": 256,
                  "attack": {"steps": 10}},
        "paper": {"average_rho": (0.05, 0.1, 0.2, 0.4), "linf_rho": (0.001, 0.002, 0.004, 0.008),
                  "l2_rho": (0.25, 0.5, 1.0, 2.0), "draws": 20, "steps": 20, "chunk": 128, "examples": 1024,
                  "normalised_logits": True, "split": "train"},
    }  # fmt: skip

    name: Literal["adaptive_sharpness"] = "adaptive_sharpness"
    average_rho: SomeRadii = (0.1,)
    """Standard deviations of normal noise, relative to |w| of each weight. Empty: no average sharpness."""
    linf_rho: SomeRadii = (0.002,)
    """Radii of the worst case in the largest of all |d| / |w|. Empty: not measured."""
    l2_rho: SomeRadii = (0.5,)
    """Radii of the worst case in the Euclidean norm of all d / |w| together. Empty: not measured."""
    draws: Count = 20
    """Draws of the noise; all radii share them."""
    steps: Count = 20
    """Steps of auto-PGD (Croce & Hein 2020, arXiv 2003.01690) in the worst case."""
    chunk: Count = 128
    """Images that share a worst-case perturbation, m; the result is the mean over chunks."""
    adaptive: bool = True
    """Perturbations in units of |w|. false: plain sharpness, in absolute units (the radii then mean something else)."""
    normalised_logits: bool = False
    """Loss of the logits less their mean, divided by their Euclidean norm: the scale of the logits drops out."""
    examples: Count = 1024
    """First so many images of the split (fewer if there are fewer)."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.average_rho or self.linf_rho or self.l2_rho):
            raise problem("all radii are empty: nothing would be measured", "average_rho")
        return self

    def average_key(self, rho: float) -> str:
        """Name of the average-case value at radius rho."""
        return self._key("avg", rho)

    def worst_key(self, norm: str, rho: float) -> str:
        """Name of the worst-case value at radius rho of the norm `linf` or `l2`."""
        return self._key(norm, rho)

    def _key(self, kind: str, rho: float) -> str:
        name = ("adaptive_" if self.adaptive else "") + "sharpness" + ("_normalised" if self.normalised_logits else "")
        return self.key(f"{name}_{kind}_rho{rho:g}")

    def worst(self) -> tuple[tuple[Literal["linf", "l2"], float], ...]:
        """Norm and radius of each worst case."""
        return (*(("linf", rho) for rho in self.linf_rho), *(("l2", rho) for rho in self.l2_rho))

    def keys(self) -> tuple[str, ...]:
        """Increases in nats; those of the average case with their standard errors over draws."""
        average = (self.average_key(rho) + end for rho in self.average_rho for end in ("", "_se"))
        return (*average, *(self.worst_key(norm, rho) for norm, rho in self.worst()))

    def passes(self, attack: Attack) -> float:
        """The attack, a forward pass for each draw, and the ascents, which need the gradient of the weights too."""
        average = 0.5 + 0.5 * self.draws * len(self.average_rho)
        worst = len(self.worst()) * (1.5 * self.steps + 0.5)
        return self.examples * (self.attacked_passes(attack) + average + worst)


@MEASURES.register
class RelativeFlatness(FixedExamples):
    """Relative flatness of the layer that makes the logits (Petzka et al. 2021, arXiv 2001.00939); small is flat."""

    implementation = "workers.measures.relative_flatness:relative_flatness"
    presets = {  # noqa: RUF012
        "quick": {"examples": 300, "attack": {"steps": 10}},
        "paper": {"split": "train"},
    }

    name: Literal["relative_flatness"] = "relative_flatness"
    batch_size: Count = 1000
    """Images at once; changes results by rounding only."""

    def keys(self) -> tuple[str, ...]:
        """Relative flatness, and its standard error over examples."""
        return self.key("relative_flatness"), self.key("relative_flatness") + "_se"

    def passes(self, attack: Attack) -> float:
        """The attack and one look at the features."""
        return self.examples * (self.attacked_passes(attack) + 0.5)
