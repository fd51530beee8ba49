"""The measures `curvature` and `wci` against dense Hessians in float64; their invariances; stopping and going on."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from curvature_toys import block_traces, dense_hessian, small_net, small_splits
from torch import nn
from toys import ATTACK, assert_same_state, digits, digits_network, state, trial

from orchestrator.spec.curvature_measures import Curvature, WeightCurvatureIndex
from orchestrator.spec.measures import MEASURES, value_keys
from orchestrator.spec.sweep import Evaluation
from orchestrator.spec.training import Attack
from workers.data.splits import Images, Splits
from workers.journal import Journal
from workers.measures.curvature import curvature
from workers.measures.hessian import curvature_tensors
from workers.measures.result import Result
from workers.measures.robust_loss import robust_examples
from workers.measures.wci import index_of, wci
from workers.models.classifier import Classifier
from workers.models.resnet import PreActBlock
from workers.storage import Folder
from workers.trial import run_trial

TRAINING = Attack(**ATTACK)
FAST = {"attack": {"steps": 2, "step_size": 0.05}}
FUNCTIONS: dict[str, Any] = {"curvature": curvature, "wci": wci}


def measured(
    model: nn.Module, name: str, splits: Splits | None = None, seed: int = 0, parts: Any = None, **settings: Any
) -> Result:
    spec = MEASURES.parse({"name": name, **FAST, **settings})
    result: Result = FUNCTIONS[name](model, splits or small_splits(), spec, attack=TRAINING, seed=seed, parts=parts)
    assert tuple(result.values) == spec.keys()
    return result


def fixed(model: nn.Module, settings: Any, splits: Splits) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the loss is taken."""
    images = (splits.test if settings["split"] == "test" else splits.train).first(20)
    if settings["loss"] == "clean":
        return images.x.float() / 255, images.y
    attack = TRAINING.model_copy(update={"steps": 2, "step_size": 0.05})
    return robust_examples(model, images, attack, 20, 0).x, images.y


CASES = [
    {"loss": "robust", "split": "test"},
    {"loss": "clean", "split": "test"},
    {"loss": "robust", "split": "train"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_values_equal_those_of_the_dense_hessian(case: dict[str, str], activation: type[nn.Module]) -> None:
    net, splits = small_net(activation, dtype=torch.float32), small_splits()
    dense = dense_hessian(net, *fixed(net, case, splits))
    exact = torch.linalg.eigvalsh(dense)
    ending = ("_clean" if case["loss"] == "clean" else "") + ("_train" if case["split"] == "train" else "")
    found = measured(net, "curvature", splits, examples=20, lanczos_steps=30, **case)
    for rank in range(5):
        assert found[f"hessian_eigenvalue{rank + 1}{ending}"] == pytest.approx(float(exact[-1 - rank]), rel=1e-4)
    assert found[f"hessian_smallest{ending}"] == pytest.approx(float(exact[0]), rel=1e-4)
    assert found[f"hessian_ratio{ending}"] == pytest.approx(float(-exact[0] / exact[-1]), rel=2e-4)
    trace, error = found[f"hessian_trace{ending}"], found[f"hessian_trace{ending}_se"]
    index = measured(net, "wci", splits, examples=20, standard_error=0.03, **case)
    traces = block_traces(dense, net)
    norms = torch.stack([t.detach().double().norm() for t in curvature_tensors(net)])
    expected = float((norms * traces.clamp(min=0).sqrt()).sum())
    torch.testing.assert_close(index.arrays["layer_norms"], norms)
    if activation is nn.ReLU:
        assert (error, index[f"wci{ending}_se"], found.flags, index.flags) == (0, 0, (), ())
        assert trace == pytest.approx(float(dense.trace()), rel=1e-5)
        torch.testing.assert_close(index.arrays["layer_traces"], traces, rtol=1e-5, atol=0)
        assert index[f"wci{ending}"] == pytest.approx(expected, rel=1e-5)
    else:
        assert 0 < error < 0.1 * trace and abs(trace - float(dense.trace())) < 4 * error
        assert 0 < index[f"wci{ending}_se"] <= 0.03 * expected * 1.1
        assert abs(index[f"wci{ending}"] - expected) < 4 * index[f"wci{ending}_se"]
        for flags in (found.flags, index.flags):
            assert len(flags) == 1 and "estimated" in flags[0] and "stem.weight" in flags[0]


@pytest.mark.parametrize("trace", ["hutchinson", "hutch++"])
def test_estimated_traces_of_the_whole_hessian(trace: str) -> None:
    net, splits = small_net(dtype=torch.float32), small_splits()
    expected = float(dense_hessian(net, *fixed(net, CASES[1], splits)).trace())
    inside = []
    for seed in range(6):
        found = measured(
            net, "curvature", splits, seed, examples=20, loss="clean", trace=trace, probes=30, density_probes=0,
            eigenvalues=1, tolerance=0.5,
        )  # fmt: skip
        error = found["hessian_trace_clean_se"]
        assert 0 < error < expected
        inside.append(abs(found["hessian_trace_clean"] - expected) < 3 * error)
    assert sum(inside) >= 5


def test_density_has_the_spectrums_moments() -> None:
    net, splits = small_net(dtype=torch.float32), small_splits()
    exact = torch.linalg.eigvalsh(dense_hessian(net, *fixed(net, CASES[0], splits))).numpy()
    found = measured(net, "curvature", splits, examples=20, density_probes=12, lanczos_steps=25)
    nodes, weights = found.arrays["density_nodes"].numpy(), found.arrays["density_weights"].numpy()
    assert nodes.shape == weights.shape == (12, 25)
    assert weights.sum(1) == pytest.approx(1)
    for degree in (1, 2, 3):
        moments = (weights * nodes**degree).sum(1)
        assert abs(moments.mean() - (exact**degree).mean()) < 3.5 * moments.std() / math.sqrt(12)
    grid, density = found.arrays["density_grid"].numpy(), found.arrays["density"].numpy()
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
    assert np.trapezoid(density * grid, grid) == pytest.approx((weights * nodes).sum(1).mean(), rel=1e-2)
    assert grid[0] < exact[0] and grid[-1] > exact[-1]
    none = measured(net, "curvature", splits, examples=20, density_probes=0)
    assert set(none.arrays) == {"residuals"}
    assert none["hessian_eigenvalue1"] == pytest.approx(found["hessian_eigenvalue1"], rel=1e-4)


def test_what_has_not_converged_is_flagged_with_its_residual() -> None:
    net = small_net(dtype=torch.float32)
    found = measured(net, "curvature", examples=20, max_products=8, lanczos_steps=20, density_probes=0)
    residuals = found.arrays["residuals"]
    allowed = 1e-3 * max(abs(v) for k, v in found.values.items() if "eigenvalue" in k or "smallest" in k)
    late = [index for index, residual in enumerate(residuals) if residual > allowed]
    assert len(late) > 2 and len(found.flags) == len(late)
    assert f"not converged in 8 products: residual {float(residuals[late[0]]):.2g}" in found.flags[0]


def test_jackknife_equals_a_simulation() -> None:
    """Of 400 experiments with 30 probes each; the second trace is small, the third always negative."""
    random = np.random.default_rng(0)
    norms = torch.tensor([1.0, 5.0, 3.0], dtype=torch.float64)
    found = [
        index_of(torch.from_numpy(random.normal([4.0, 0.3, -2.0], [2.0, 0.2, 1.0], (30, 3))), norms) for _ in range(400)
    ]
    indices, errors = np.array(found).T
    assert indices.mean() == pytest.approx(2 + 5 * math.sqrt(0.3), rel=0.01)
    assert errors.mean() == pytest.approx(indices.std(), rel=0.1)
    assert index_of(torch.tensor([[4.0, 9.0, -1.0]]), norms) == (1 * 2 + 5 * 3, 0.0)


def test_accuracy_of_the_index_is_reached_or_missed_aloud() -> None:
    net = small_net(nn.SiLU, dtype=torch.float32)
    rough, fine, short = (
        measured(net, "wci", examples=20, standard_error=error, max_probes=probes)
        for error, probes in ((0.2, 1000), (0.02, 1000), (0.002, 30))
    )
    assert 0.02 < rough["wci_se"] / rough["wci"] <= 0.2 and fine["wci_se"] / fine["wci"] <= 0.02
    assert "10 probes" in rough.flags[0] and len(rough.flags) == 1
    assert "30 probes" in short.flags[0] and "less accurate than asked for" in short.flags[1]


def test_layers_of_another_kind_get_common_probes() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net(nn.SiLU)
            self.gate = nn.Conv1d(1, 1, 3, padding=1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.gate(self.net(x)[:, None])[:, 0]
            return logits

    net, splits = Gated().float(), small_splits()
    dense = dense_hessian(net, *fixed(net, CASES[1], splits))
    sizes = [tensor.numel() for tensor in curvature_tensors(net)]
    traces = torch.stack([part.sum() for part in dense.diagonal().split(sizes)])
    found = measured(net, "wci", splits, examples=20, loss="clean", max_probes=200, standard_error=0.001)
    assert "gate.weight is not the weight" in found.flags[0]
    difference = found.arrays["layer_traces"] - traces
    assert (difference.abs() < 4 * found.arrays["layer_traces_se"]).all()


# ---- invariances --------------------------------------------------------------------------------------------------


def rescaled(model: Classifier) -> Classifier:
    """The same function: each block's first convolution times c, the statistics of the norm behind it times c, c^2."""
    twin = copy.deepcopy(model)
    blocks = [module for module in twin.modules() if isinstance(module, PreActBlock)]
    with torch.no_grad():
        for block, c in zip(blocks, (4.0, 0.125, 32.0), strict=True):
            block.conv1.weight.mul_(c)
            block.norm2.running_mean.mul_(c)
            block.norm2.running_var.mul_(c**2)
    return twin


def test_rescaling_changes_the_trace_but_not_the_index(trained: Classifier) -> None:
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    twin = rescaled(trained)
    first, second = (measured(model, "wci", digits(), examples=40) for model in (trained, twin))
    assert first["wci"] > 0 and second["wci"] == pytest.approx(first["wci"], rel=1e-6)
    assert first.flags == ()
    one, other = (
        measured(model, "curvature", digits(), examples=40, density_probes=0, eigenvalues=1, tolerance=0.1)
        for model in (trained, twin)
    )
    for key in ("hessian_trace", "hessian_eigenvalue1"):
        assert other[key] != pytest.approx(one[key], rel=0.2)


@pytest.mark.parametrize("name", ["curvature", "wci"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_batch_size_changes_rounding_only(name: str, activation: type[nn.Module]) -> None:
    net = small_net(activation, dtype=torch.float32)
    first, second = (measured(net, name, batch_size=size, loss="clean") for size in (1000, 16))
    for key, value in first.values.items():
        assert second[key] == pytest.approx(value, rel=1e-4), key


@pytest.mark.parametrize("name", ["curvature", "wci"])
def test_order_of_examples_does_not_matter(name: str) -> None:
    net, part = small_net(dtype=torch.float32), small_splits().test
    turned = Images(part.x.flip(0), part.y.flip(0))
    first, second = (measured(net, name, Splits(p, p, p, 4, ""), loss="clean") for p in (part, turned))
    for key, value in first.values.items():
        assert second[key] == pytest.approx(value, rel=1e-4), key


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("curvature", {"density_probes": 2}),
        ("curvature", {"trace": "hutchinson", "probes": 8, "max_products": 8}),
        ("curvature", {"trace": "hutch++", "probes": 12, "max_products": 8}),
        ("wci", {}),
        ("wci", {"traces": "hutchinson", "max_probes": 20}),
    ],
    ids=str,
)
def test_going_on_after_a_stop_gives_the_same(name: str, settings: dict[str, Any]) -> None:
    """Stopped anywhere, by a new process: what was finished is kept as JSON, and only the rest is done."""
    net, splits = small_net(dtype=torch.float32).train(), small_splits()
    net.head.weight.requires_grad_(False)
    before = state(net)
    lanczos = {"lanczos_steps": 10} if name == "curvature" else {}
    spec = MEASURES.parse({"name": name, **FAST, "batch_size": 16, **lanczos, **settings})

    def steps_with(parts: dict[str, Any]) -> Any:
        return FUNCTIONS[name].steps(net, splits, spec, attack=TRAINING, seed=0, parts=parts)

    expected, total = list_of(steps_with({}))
    assert_same_state(before, state(net))
    for stop_after in range(1, total, max(1, total // 5)):
        parts: dict[str, Any] = {}
        steps = steps_with(parts)
        for _ in range(stop_after):
            next(steps)
        steps.close()
        assert_same_state(before, state(net))
        done = len(parts)
        found, further = list_of(steps_with(json.loads(json.dumps(parts))))
        assert found.values == expected.values and found.flags == expected.flags
        assert all(torch.equal(tensor, expected.arrays[key]) for key, tensor in found.arrays.items())
        assert further < total or not done


def list_of(steps: Any) -> tuple[Result, int]:
    """The result and the number of ticks."""
    count = 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as stop:
            return stop.value, count


def test_in_a_trial(tmp_path: Path) -> None:
    """Values in their files and in the journal, arrays beside them, flags as tags."""
    quick = {"preset": "quick", "examples": 20, **FAST}
    measures = [{"name": name, **quick} for name in ("wci", "adaptive_sharpness", "relative_flatness")]
    evaluation = Evaluation(measures=[{"name": "curvature", **quick, "max_products": 4}, *measures])
    folder = Folder(str(tmp_path))
    values = run_trial(trial(epochs=1, attack={**ATTACK, "steps": 1}), evaluation, folder)
    keys = value_keys(evaluation.measures)
    assert all(math.isfinite(values[key]) for key in keys)
    assert set(keys) <= {record.key for record in Journal(folder).records if record.kind == "metric"}
    (flags,) = (record.text for record in Journal(folder).records if record.key == "flags/last/curvature")
    assert "hessian_eigenvalue1 has not converged in 4 products" in flags
    arrays = [dict(np.load(path)) for path in sorted(tmp_path.rglob("*.npz"))]
    assert {"residuals", "layer_traces", "draws", "relative_flatness"} <= {key for file in arrays for key in file}


def test_seed_decides(trained: Classifier) -> None:
    settings = {"examples": 40, "traces": "hutchinson", "standard_error": 0.5}
    first = measured(trained, "wci", digits(), seed=1, **settings).values
    torch.manual_seed(99)
    assert measured(trained, "wci", digits(), seed=1, **settings).values == first
    assert measured(trained, "wci", digits(), seed=2, **settings).values != first


@pytest.mark.parametrize("name", ["curvature", "wci"])
def test_a_network_of_nans_is_flagged(trained: Classifier, name: str) -> None:
    with torch.no_grad():
        trained.network.stem.weight[0, 0, 0, 0] = torch.nan
    found = measured(trained, name, digits(), examples=20)
    assert all(math.isnan(value) for value in found.values.values())
    assert "nan at the trained weights" in found.flags[0]


def test_a_dead_network_has_no_curvature() -> None:
    """All logits are 0 whatever the image: only the head's block, which sees zeros, could have curvature."""
    net = digits_network()
    with torch.no_grad():
        net.network.last_norm.weight.zero_()
        net.network.last_norm.bias.fill_(-1)
    index, found = (measured(net, name, digits(), examples=20, loss="clean") for name in ("wci", "curvature"))
    assert index["wci_clean"] == 0
    assert found["hessian_eigenvalue1_clean"] == 0 and math.isnan(found["hessian_ratio_clean"])
    assert any("missing" in flag for flag in found.flags)


def test_specs_name_their_values_and_costs() -> None:
    short = Curvature(eigenvalues=2, loss="clean", split="train")
    assert short.keys() == (
        "hessian_eigenvalue1_clean_train", "hessian_eigenvalue2_clean_train", "hessian_smallest_clean_train",
        "hessian_ratio_clean_train", "hessian_trace_clean_train", "hessian_trace_clean_train_se",
    )  # fmt: skip
    assert WeightCurvatureIndex().keys() == ("wci", "wci_se")
    for cls in (Curvature, WeightCurvatureIndex):
        assert 0 < cls(preset="quick").passes(TRAINING) < cls(preset="paper").passes(TRAINING)
        clean = cls(loss="clean").passes(TRAINING)
        assert cls().passes(TRAINING) == clean + 1000 * 21
