"""Flatness per filter, of the error, on both sets and tensor by tensor: against loops that move weights by hand."""

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import TwoWeights, assert_same_state, digits, state, two_pixel_splits

from orchestrator.spec.measures import AverageFlatness, Flatness, WorstFlatness
from orchestrator.spec.training import Attack
from workers.data.splits import Images, Splits
from workers.measures.average_flatness import average_flatness
from workers.measures.flatness import random_directions
from workers.measures.result import Result
from workers.measures.robust_loss import clean_examples, robust_examples
from workers.measures.worst_flatness import JointAscent, worst_flatness
from workers.models.classifier import Classifier
from workers.models.resnet import PreActBlock
from workers.seeding import generator
from workers.steps import drain
from workers.weights import norms, perturbed_tensors, restored, scaled_to

ATTACK = Attack(eps=0.1, step_size=0.05, steps=2)
FAST = {"steps": 2, "step_size": 0.05}


def average(**settings: Any) -> AverageFlatness:
    return AverageFlatness(**{"attack": FAST, "examples": 30, "draws": 2, **settings})


def worst(**settings: Any) -> WorstFlatness:
    small = {"examples": 30, "restarts": 2, "epochs": 2, "batch_size": 15, "xi": (0.02,)}
    return WorstFlatness(**{"attack": FAST, **small, **settings})


def measured(model: nn.Module, how: Flatness, splits: Splits | None = None, **more: Any) -> Result:
    measure = average_flatness if isinstance(how, AverageFlatness) else worst_flatness
    result: Result = measure(model, splits or digits(), how, attack=ATTACK, seed=0, **more)  # type: ignore[arg-type]
    assert tuple(result.values) == how.keys()
    return result


def is_norm(name: str) -> bool:
    return "norm" in name or name in {"mean", "std"}


def offsets_seen(model: nn.Module, how: Flatness) -> Iterator[dict[str, Tensor]]:
    """Weight offsets whenever the measure stands between two steps with anything moved."""
    measure = average_flatness if isinstance(how, AverageFlatness) else worst_flatness
    before = copy.deepcopy(model.state_dict())
    for _ in measure.steps(model, digits(), how, attack=ATTACK, seed=0):  # type: ignore[arg-type]
        offsets = {name: tensor - before[name] for name, tensor in model.state_dict().items()}
        if any(bool(offset.any()) for offset in offsets.values()):
            yield offsets


def level(model: nn.Module, part: Images, attack: Attack) -> tuple[float, float]:
    """Robust loss and error of a network as it is."""
    robust, clean = robust_examples(model, part, attack, 1000, 0), clean_examples(model, part, 1000)
    return robust.mean_loss(), float((robust.wrong | clean.wrong).double().mean())


# ---- per filter ---------------------------------------------------------------------------------------------------


def by_hand(weights: dict[str, Tensor], draw: int) -> dict[str, Tensor]:
    """Unit directions: each slice along the first dimension as long as that of the weight."""
    random = generator(torch.device("cpu"), 0, "direction", draw)
    directions = {}
    for name, weight in weights.items():
        noise = torch.empty_like(weight).normal_(generator=random)
        directions[name] = torch.stack(
            [own * float(w.double().norm() / own.double().norm()) for own, w in zip(noise, weight, strict=True)]
        )
    return directions


def test_average_case_per_filter_equals_a_loop(trained: Classifier) -> None:
    how = average(norm="filter", quantity="both", xi=(0.3, 0.6))
    found = measured(trained, how)
    part, budget = digits().test.first(30), how.attack.resolve(ATTACK)
    base = level(trained, part, budget)
    weights = {name: p.detach().clone() for name, p in trained.named_parameters() if not is_norm(name)}
    for place, xi in enumerate(how.xi):
        increases = []
        for draw in range(2):
            directions, twin = by_hand(weights, draw), copy.deepcopy(trained)
            with torch.no_grad():
                for name, parameter in twin.named_parameters():
                    if name in directions:
                        parameter += xi * directions[name]
            increases.append([here - at_w for here, at_w in zip(level(twin, part, budget), base, strict=True)])
        for column, ending in enumerate(("", "_error")):
            expected = [row[column] for row in increases]
            key = f"average_flatness_xi{xi}_filter{ending}"
            assert found.arrays[f"draws_filter{ending}"][:, place].tolist() == pytest.approx(expected, rel=2e-3)
            assert found[key] == pytest.approx(sum(expected) / 2, rel=2e-3)
            assert found[f"{key}_se"] == pytest.approx(abs(expected[0] - expected[1]) / 2, rel=2e-2, abs=1e-4)


@pytest.mark.parametrize(
    "how", [average(norm="filter", xi=(0.25,)), worst(norm="filter", epochs=5)], ids=lambda how: how.name
)
def test_radii_hold_for_every_filter(trained: Classifier, how: Flatness) -> None:
    with torch.no_grad():
        trained.network.stem.weight[1] = 0  # zeros stay
    xi = 0.25 if isinstance(how, AverageFlatness) else 0.02
    weights = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    largest: list[float] = []
    for offsets in offsets_seen(trained, how):
        for name, _ in trained.named_parameters():
            if is_norm(name):
                assert not offsets[name].any()
                continue
            lengths, moved = slice_norms(weights[name]), slice_norms(offsets[name])
            assert not moved[lengths == 0].any()
            shares = moved[lengths > 0] / lengths[lengths > 0]
            assert float(shares.max()) <= xi * (1 + 2e-3), name
            largest.append(float(shares.max()))
            if isinstance(how, AverageFlatness):
                assert float(shares.min()) == pytest.approx(xi, rel=2e-3), name
    assert max(largest) == pytest.approx(xi, rel=2e-3)


def slice_norms(tensor: Tensor) -> Tensor:
    return torch.tensor([float(part.double().norm()) for part in tensor])


def rescaled_filters(model: Classifier) -> Classifier:
    """The same function: each output channel of a block's first convolution has a factor of its own."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for block in [m for m in twin.modules() if isinstance(m, PreActBlock)]:
            factors = 2.0 ** (torch.arange(len(block.conv1.weight)) % 5 - 2)
            block.conv1.weight.mul_(factors[:, None, None, None])
            block.norm2.running_mean.mul_(factors)
            block.norm2.running_var.mul_(factors**2)
    return twin


@pytest.mark.parametrize("make", [average, worst])
def test_only_filter_norms_are_blind_to_the_scale_of_filters(trained: Classifier, make: Any) -> None:
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    twin = rescaled_filters(trained)
    one, other = ({n: measured(m, make(norm=n)) for n in ("filter", "layer")} for m in (trained, twin))
    for norm, is_same in (("filter", True), ("layer", False)):
        (key,) = [key for key in one[norm].values if not key.endswith("_se")]
        assert (other[norm][key] == pytest.approx(one[norm][key], rel=1e-5)) == is_same
        assert one[norm][key] > 1e-3


def test_norms_and_lengths() -> None:
    kernel = torch.tensor([[[[3.0, 4.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[0.0, 0.0]]]])
    row, bias = torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([-2.0, 0.0])
    found = norms([kernel, row, bias], "filter")
    assert [tensor.tolist() for tensor in found] == [[[[[5.0]]], [[[0.0]]]], [[3.0]], [2.0, 0.0]]
    assert [float(n) for n in norms([kernel, row, bias])] == [5.0, 3.0, 2.0]
    moved = scaled_to([kernel, row, bias], [tensor * 2 for tensor in found], "filter")
    assert [tensor.tolist() for tensor in moved] == [(2 * t).tolist() for t in (kernel, row, bias)]


# ---- of the error -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["matched", "stutz21"])
@pytest.mark.parametrize("make", [average, worst])
def test_the_error_comes_beside_the_same_loss(trained: Classifier, make: Any, protocol: str) -> None:
    loss, error, both = (measured(trained, make(quantity=q, protocol=protocol)) for q in ("loss", "error", "both"))
    assert loss.values.items() | error.values.items() == both.values.items()
    assert all("_error" in key for key in error.values) and len(both.values) == 2 * len(loss.values)


def test_worst_error_is_that_where_the_climb_of_the_loss_ends(trained: Classifier) -> None:
    how = worst(quantity="error", restarts=3, xi=(0.3,), epochs=6, step=0.1)
    found = measured(trained, how)
    part, budget = digits().test.first(30), how.attack.resolve(ATTACK)
    base, ends = level(trained, part, budget)[1], []
    tensors = perturbed_tensors(trained)
    for restart in range(3):
        with restored(tensors):
            drain(JointAscent(trained, tensors, range(len(tensors)), part, how, budget, 0.3).run(restart, 0))
            ends.append(level(trained, part, budget)[1] - base)
    assert found.arrays["restarts"].tolist() == [pytest.approx(ends)]
    assert found["worst_flatness_xi0.3_error"] == max(ends) > 0


def test_a_negative_worst_error_is_explained() -> None:
    """Five images wrong by much, one by little: as the loss of the five climbs, the one turns right."""
    pixels = torch.tensor([[255, 0]] * 5 + [[255, 204]], dtype=torch.uint8).reshape(6, 1, 1, 2)
    part = Images(pixels, torch.tensor([0] * 5 + [1]))  # scores 3 and -0.2, class 1 where positive
    tiny = {"eps": 1e-4, "step_size": 1e-4, "steps": 1}
    how = worst(quantity="both", xi=(0.2,), epochs=30, step=0.05, restarts=1, attack=tiny)
    found = measured(TwoWeights([3.0, -4.0]), how, Splits(part, part, part, 2, ""))
    assert found["worst_flatness_xi0.2"] > 0
    assert found["worst_flatness_xi0.2_error"] == pytest.approx(-1 / 6)
    assert found.flags == (
        "worst_flatness_xi0.2_error is negative (-0.167): the ascent climbs the loss, not the error",
    )


# ---- both sets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [average, worst])
def test_both_sets_in_one_pass_are_the_same_as_one_after_the_other(trained: Classifier, make: Any) -> None:
    test, train, both = (measured(trained, make(split=split)) for split in ("test", "train", "both"))
    assert test.values | train.values == both.values
    (name,) = test.arrays
    assert set(both.arrays) == {name, f"{name}_train"}
    assert torch.equal(both.arrays[name], test.arrays[name])
    assert torch.equal(both.arrays[f"{name}_train"], train.arrays[name])
    assert not torch.equal(test.arrays[name], train.arrays[name])


def test_names_say_what_is_not_the_default() -> None:
    how = average(split="both", quantity="both", norm="filter", xi=(0.5,))
    names = [f"average_flatness_xi0.5_filter{end}" for end in ("", "_train", "_error", "_error_train")]
    assert how.keys() == tuple(key for name in names for key in (name, f"{name}_se"))
    assert worst(split="both", xi=(0.1,)).keys() == ("worst_flatness_xi0.1", "worst_flatness_xi0.1_train")


# ---- tensor by tensor ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["layer", "filter"])
def test_average_case_tensor_by_tensor_equals_a_loop(trained: Classifier, norm: Any) -> None:
    how = average(per_layer=True, norm=norm, xi=(0.2, 0.5), draws=2)
    found = measured(trained, how)
    part, budget = digits().test.first(30), how.attack.resolve(ATTACK)
    base = level(trained, part, budget)[0]
    tensors = {name: p for name, p in trained.named_parameters() if not is_norm(name)}
    directions = [random_directions([p.detach() for p in tensors.values()], 0, draw, norm) for draw in range(2)]
    ending = "" if norm == "layer" else "_filter"
    for place, (name, tensor) in enumerate(tensors.items()):
        for xi in how.xi:
            increases = []
            for draw in range(2):
                before = tensor.detach().clone()
                with torch.no_grad():
                    tensor.add_(xi * directions[draw][place])
                increases.append(level(trained, part, budget)[0] - base)
                with torch.no_grad():
                    tensor.copy_(before)
            key = f"average_flatness_xi{xi}{ending}_layer_{name}"
            assert found.arrays.pop(key).tolist() == pytest.approx(increases, rel=1e-3, abs=1e-6)
    assert set(found.arrays) == {"draws"}
    assert found.values == measured(trained, average(norm=norm, xi=(0.2, 0.5))).values


def test_worst_case_moves_one_tensor_at_a_time_within_its_ball(trained: Classifier) -> None:
    how = worst(per_layer=True, restarts=1, epochs=3, batch_size=30)
    weights = {name: float(p.detach().double().norm()) for name, p in trained.named_parameters() if not is_norm(name)}
    alone = set()
    for offsets in offsets_seen(trained, how):
        moved = {name for name, offset in offsets.items() if offset.any()}
        assert moved == set(weights) or len(moved) == 1
        for name in moved:
            assert float(offsets[name].double().norm()) <= 0.02 * weights[name] * (1 + 1e-3)
        if len(moved) == 1:
            alone |= moved
    assert alone == set(weights)
    found = measured(trained, how)
    assert set(found.arrays) == {"restarts", *(f"worst_flatness_xi0.02_layer_{name}" for name in weights)}
    assert found.values == measured(trained, worst(restarts=1, epochs=3, batch_size=30)).values
    assert max(float(found.arrays[f"worst_flatness_xi0.02_layer_{name}"][0]) for name in weights) > 0


@pytest.mark.parametrize("norm", ["layer", "filter"])
def test_worst_case_starts_at_a_share_of_each_radius_alone_as_among_all(trained: Classifier, norm: Any) -> None:
    how = worst(per_layer=True, epochs=0, restarts=1, norm=norm, xi=(0.1,))
    random = generator(torch.device("cpu"), 0, "joint radius", 0)
    weights = {name: p.detach().clone() for name, p in trained.named_parameters() if not is_norm(name)}
    shares = dict(zip(weights, torch.rand(len(weights), generator=random).tolist(), strict=True))
    directions = dict(zip(weights, random_directions(list(weights.values()), 0, 0, norm), strict=True))
    together = 0
    for offsets in offsets_seen(trained, how):
        moved = [name for name, offset in offsets.items() if offset.any()]
        together += len(moved) > 1
        for name in moved:
            expected = 0.1 * shares[name] * directions[name]
            torch.testing.assert_close(offsets[name], expected, rtol=1e-3, atol=1e-6)
    assert together == 2  # attacked in two batches


@pytest.mark.parametrize("make", [average, worst])
def test_the_only_tensor_alone_is_the_whole(make: Any) -> None:
    how = make(per_layer=True, xi=(0.2, 0.1), quantity="both")
    found = measured(TwoWeights([3.0, -4.0]), how, two_pixel_splits())
    for ending in ("", "_error"):
        whole = found.arrays[("draws" if make is average else "restarts") + ending]
        for place, xi in enumerate((0.2, 0.1)):
            alone = found.arrays[f"{how.name}_xi{xi}{ending}_layer_layer.weight"]
            assert torch.equal(alone, whole[:, place] if make is average else whole[place])


# ---- a measure's duties -------------------------------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {"norm": "filter", "quantity": "both", "split": "both", "per_layer": True, "examples": 10}


@pytest.mark.parametrize(
    "how", [average(**EVERYTHING), worst(**EVERYTHING, restarts=1, epochs=1)], ids=lambda how: how.name
)
def test_goes_on_where_it_stopped(trained: Classifier, how: Flatness) -> None:
    before, measure = state(trained), average_flatness if isinstance(how, AverageFlatness) else worst_flatness
    whole_parts: dict[str, Any] = {}
    whole = measured(trained, how, parts=whole_parts)
    parts: dict[str, Any] = {}
    while len(parts) < len(whole_parts):
        had = len(parts)
        steps = measure.steps(trained, digits(), how, attack=ATTACK, seed=0, parts=parts)  # type: ignore[arg-type]
        for _ in steps:
            if len(parts) > had + 2:
                break
        steps.close()
        parts = json.loads(json.dumps(parts))
        assert_same_state(before, state(trained))
    again = measured(trained, how, parts=parts)
    assert again.values == whole.values and parts == whole_parts
    assert all(torch.equal(again.arrays[key], whole.arrays[key]) for key in whole.arrays)
    assert len(whole.arrays) == 4 * (1 + 11)  # of 11 tensors


class Counting(nn.Module):
    """Passes on to a network and counts forward and backward passes of single images."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.halves = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.halves += len(x) * (2 if x.requires_grad else 1)
        logits: Tensor = self.inner(x)
        return logits


@pytest.mark.parametrize("changes", [{}, {"quantity": "both"}, {"split": "both"}, {"protocol": "stutz21"}], ids=str)
@pytest.mark.parametrize("make", [average, worst])
def test_passes_predict_the_cost(trained: Classifier, make: Any, changes: dict[str, Any]) -> None:
    how = make(attack={**FAST, "best_iterate": False}, **changes)
    counting = Counting(trained)
    measured(counting, how)
    assert counting.halves / 2 == how.passes(ATTACK)
    assert how.model_copy(update={"per_layer": True}).passes(ATTACK) == 0.0  # not known without the network


def test_values_are_finite_with_everything(trained: Classifier) -> None:
    found = measured(trained, average(**EVERYTHING))
    assert all(math.isfinite(value) for value in found.values.values())
