"""Lower precision and compiled networks against the plain path. A backend that records stands in for a compiler."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from toys import digits, state, trial

from orchestrator.spec.landscape_measures import InputLandscape
from orchestrator.spec.measures import AverageFlatness, WorstFlatness
from orchestrator.spec.training import EvaluationAttack
from workers.computing import Computing
from workers.measures.robust_loss import robust_examples
from workers.steps import drain
from workers.training import Trainer, weights_digest

CPU = torch.device("cpu")
ATTACK = {"eps": 0.1, "step_size": 0.05, "steps": 3}


def trained(**training: Any) -> Trainer:
    trainer = Trainer(trial("at", attack=ATTACK, **training), digits(), None, CPU)
    drain(trainer.run())
    return trainer


def robust_loss(trainer: Trainer) -> float:
    return robust_examples(trainer.model, digits().test, trainer.trial.training.attack, 100, 0).mean_loss()


def test_precision_is_part_of_the_identity_only_where_it_is_lower() -> None:
    plain = trial("at")
    assert trial("at", precision="fp32").trial_id == plain.trial_id == trial("at", compile=True).trial_id
    assert trial("at", precision="bf16").trial_id != plain.trial_id


def test_bf16_agrees_with_fp32() -> None:
    """Robust loss after 2 epochs within 5 %: bfloat16 has 8 bits, and the weights are kept in 24."""
    low, full = trained(epochs=2, precision="bf16"), trained(epochs=2)
    assert weights_digest(low.model) != weights_digest(full.model)
    assert {p.dtype for p in low.model.parameters()} == {torch.float32}
    assert robust_loss(low) == pytest.approx(robust_loss(full), rel=0.05)


def test_bf16_is_what_training_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, torch.dtype, torch.dtype]] = []
    trainer = Trainer(trial("at", attack=ATTACK, precision="bf16"), digits(), None, CPU)
    layer = trainer.model.network.blocks[0].conv2
    layer.register_forward_hook(lambda module, _, out: seen.append((module.training, out.dtype, module.weight.dtype)))
    logits: list[torch.dtype] = []
    trainer.model.register_forward_hook(lambda _module, _inputs, out: logits.append(out.dtype))
    next(trainer.run())
    assert set(seen) == {(training, torch.bfloat16, torch.float32) for training in (True, False)}
    assert set(logits) == {torch.float32}
    robust_loss(trainer)  # what is measured is measured in full
    assert seen[-1] == (False, torch.float32, torch.float32)


def precisions(model: torch.nn.Module) -> list[tuple[bool, torch.dtype]]:
    """Grows with every pass: whether in training mode, and what a convolution inside it computes in."""
    seen: list[tuple[bool, torch.dtype]] = []
    layer = model.network.blocks[0].conv2
    layer.register_forward_hook(lambda module, _inputs, out: seen.append((module.training, out.dtype)))
    return seen


@pytest.mark.parametrize("method", ["at", "trades", "pgd_tau", "fgsm_rs"])
def test_an_attack_in_bf16_leaves_the_loss_in_fp32(method: str) -> None:
    trainer = Trainer(trial(method, attack={**ATTACK, "precision": "bf16"}), digits(), None, CPU)
    seen = precisions(trainer.model)
    next(trainer.run())
    assert set(seen) == {(False, torch.bfloat16), (True, torch.float32)}
    plain, low = (trial(method, attack={**ATTACK, "precision": precision}) for precision in ("fp32", "bf16"))
    assert plain.trial_id == trial(method, attack=ATTACK).trial_id != low.trial_id


def test_a_compiled_attack_in_bf16() -> None:
    """Warmed up as it is used: two graphs, and no third one in the other precision."""
    spec = trial("at", attack={**ATTACK, "precision": "bf16"}, compile=True)
    trainer, recording = Trainer(spec, digits(), None, CPU), Recording()
    trainer.computing = Computing(spec.training, trainer.model, compile_with=recording)
    drain(trainer.run())
    assert [len(graphs) for graphs in (recording.forward, recording.backward)] == [2, 2]
    kinds = [
        {node.meta["val"].dtype for node in graph.graph.nodes if node.target is torch.ops.aten.convolution.default}
        for graph in recording.forward
    ]
    assert kinds == [{torch.float32}, {torch.bfloat16}]


def test_what_an_attack_in_bf16_finds_is_measured_in_fp32() -> None:
    """Robust loss within 1 % of that of an attack in single precision, and other examples."""
    trainer = trained(epochs=2)
    seen = precisions(trainer.model)
    attack = EvaluationAttack(step_size=0.03, steps=10, restarts=2)
    found = {}
    for precision in ("fp32", "bf16"):
        settings = attack.model_copy(update={"precision": precision}).resolve(trainer.trial.training.attack)
        found[precision] = robust_examples(trainer.model, digits().test, settings, 100, 0)
        assert seen[-1] == (False, torch.float32)
        assert ((False, torch.bfloat16) in seen) is (precision == "bf16")
    with torch.no_grad():
        logits = trainer.model.eval()(found["bf16"].x)
    loss = torch.nn.functional.cross_entropy(logits, digits().test.y, reduction="none")
    torch.testing.assert_close(loss, found["bf16"].loss, rtol=1e-4, atol=1e-4)
    assert found["bf16"].mean_loss() == pytest.approx(found["fp32"].mean_loss(), rel=0.01)
    assert not torch.equal(found["bf16"].x, found["fp32"].x)


@pytest.mark.parametrize("measure", [AverageFlatness, WorstFlatness], ids=lambda measure: measure.__name__)
def test_flatness_in_bf16(measure: type[AverageFlatness | WorstFlatness]) -> None:
    """Within 5 %, exactly 0 at radius 0, and of a network that is left as it was."""
    trainer = trained(epochs=2)
    before, seen = weights_digest(trainer.model), precisions(trainer.model)
    found = {}
    for precision in ("fp32", "bf16"):
        settings = measure(xi=(0.0, 0.3), examples=100, attack={"step_size": 0.03, "steps": 5, "precision": precision})
        settings = settings.model_copy(update={"draws": 2} if measure is AverageFlatness else {"restarts": 2})
        given = {"attack": trainer.trial.training.attack, "seed": 0}
        found[precision] = settings.load()(trainer.model, digits(), settings, **given).values
        assert found[precision][settings.key(0.0)] == 0.0
    assert {dtype for _, dtype in seen} == {torch.float32, torch.bfloat16}
    assert weights_digest(trainer.model) == before
    values = [found[precision][settings.key(0.3)] for precision in ("bf16", "fp32")]
    assert values[0] == pytest.approx(values[1], rel=0.05) and values[0] != values[1]


def test_local_linearity_is_not_measured_in_bf16() -> None:
    with pytest.raises(ValidationError, match="lose in rounding"):
        InputLandscape(linearity={"precision": "bf16"})
    InputLandscape(attack={"precision": "bf16"})


class Recording:
    """A backend of torch.compile that runs the graphs as they are and keeps them."""

    def __init__(self) -> None:
        self.forward: list[fx.GraphModule] = []
        self.backward: list[fx.GraphModule] = []

    def __call__(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def kept(graphs: list[fx.GraphModule]) -> Callable[..., Any]:
            return lambda graph, _inputs: graphs.append(graph) or make_boxed_func(graph.forward)  # type: ignore[func-returns-value]

        backend = aot_autograd(fw_compiler=kept(self.forward), bw_compiler=kept(self.backward))
        return torch.compile(forward, dynamic=False, backend=backend)


def weight_gradients(graph: fx.GraphModule) -> int:
    """Convolutions of a backward graph that compute their weight's gradient."""
    masks = [node.args[-1] for node in graph.graph.nodes if node.target is torch.ops.aten.convolution_backward.default]
    assert masks
    return sum(mask[1] for mask in masks)


def test_two_graphs_and_no_more() -> None:
    """One for training, one for attacks, without weights' gradients, whatever the batches: 4 of 50 and one of 30."""
    recording, torch._dynamo.config.recompile_limit = Recording(), 8
    plain = Trainer(trial("at", attack=ATTACK, epochs=2), digits(), None, CPU)
    spec = trial("at", attack=ATTACK, epochs=2, compile=True)
    compiled = Trainer(spec, digits(), None, CPU)
    compiled.computing = Computing(spec.training, compiled.model, compile_with=recording)
    before = state(compiled.model)
    losses = [[step.loss for step in trainer.run() if step.loss is not None] for trainer in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert [len(graphs) for graphs in (recording.forward, recording.backward)] == [2, 2]
    counts = [weight_gradients(graph) for graph in recording.backward]
    assert counts[1] == 0 < counts[0]
    assert "forward" not in vars(compiled.model)
    assert before["modes"] == state(compiled.model)["modes"]


def test_a_penalty_is_differentiated_twice_all_the_same() -> None:
    spec = trial("at", ["input_gradient"], attack=ATTACK, epochs=1, compile=True)
    trainer = Trainer(spec, digits(), None, CPU)
    assert trainer.computing.twice
    recording = Recording()
    trainer.computing = Computing(spec.training, trainer.model, True, recording)
    drain(trainer.run())
    assert all(weight_gradients(graph) == 0 for graph in recording.backward)


def test_without_a_compiler_training_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def missing(_forward: object) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(Computing.__init__, "__defaults__", (False, missing))
    with caplog.at_level(logging.WARNING):
        compiled = trained(epochs=1, compile=True)
    assert "no compiler" in caplog.text
    assert weights_digest(compiled.model) == weights_digest(trained(epochs=1).model)
