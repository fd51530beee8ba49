"""The parts that the tables of the recipes are made of, in the form that a trial's identity is made of."""

from typing import Any

Table = dict[str, Any]


def cifar10(**changes: Any) -> Table:
    return {
        "name": "cifar10", "split_seed": 0, "train_size": None, "validation_size": 0, "test_size": None,
        "augmentation": "crop_flip", "padding": 4,
    } | changes  # fmt: skip


def digits(train_size: int, **changes: Any) -> Table:
    return {
        "name": "digits", "split_seed": 0, "train_size": train_size, "validation_size": 197, "test_size": 600,
        "augmentation": "none", "padding": 4,
    } | changes  # fmt: skip


def small_network(width: int) -> Table:
    return {"name": "small_preact_resnet", "width": width, "blocks": 1}


def sgd(lr: float, weight_decay: float = 5e-4, nesterov: bool = True) -> Table:
    return {"name": "sgd", "lr": lr, "momentum": 0.9, "nesterov": nesterov, "weight_decay": weight_decay}


def steps_at(*milestones: int, gamma: float = 0.1) -> Table:
    return {"name": "multistep", "milestones": list(milestones), "gamma": gamma}


def pgd(steps: int, step_size: float, eps: float = 8 / 255, random_start: bool = True, best: bool = True) -> Table:
    return {
        "norm": "linf", "eps": eps, "step_size": step_size, "steps": steps, "restarts": 1,
        "random_start": random_start, "best_iterate": best,
    }  # fmt: skip


def measuring(steps: int, step_size: float, restarts: int = 1, **changes: Any) -> Table:
    """An attack that takes norm and eps from training, unless `changes` says otherwise."""
    return {
        "norm": None, "eps": None, "step_size": step_size, "steps": steps, "restarts": restarts,
        "random_start": True, "best_iterate": True,
    } | changes  # fmt: skip


def stopping(attack: Table) -> Table:
    return {"every": 1, "examples": 1000, "attack": attack}


def robustness(attack: Table, examples: int) -> Table:
    return {
        "name": "robustness", "batch_size": 1000, "attack": attack,
        "train_examples": examples, "test_examples": examples,
    }  # fmt: skip


def average(attack: Table, draws: int, examples: int) -> Table:
    return {
        "name": "average_flatness", "batch_size": 1000, "protocol": "matched", "attack": attack, "examples": examples,
        "split": "test", "xi": [0.5], "draws": draws,
    }  # fmt: skip


def worst(attack: Table, restarts: int, epochs: int, examples: int) -> Table:
    return {
        "name": "worst_flatness", "batch_size": 128, "protocol": "matched", "attack": attack, "examples": examples,
        "split": "test", "xi": [0.003, 0.00075], "restarts": restarts, "epochs": epochs, "step": 0.01,
    }  # fmt: skip


def weight_curvature_index(attack: Table, examples: int) -> Table:
    return {
        "name": "wci", "batch_size": 128, "loss": "robust", "attack": attack, "examples": examples, "split": "test",
        "traces": "exact", "standard_error": 0.02, "max_probes": 1000,
    }  # fmt: skip


def curvature(attack: Table, examples: int, eigenvalues: int = 5, tolerance: float = 1e-3) -> Table:
    return {
        "name": "curvature", "batch_size": 128, "loss": "robust", "attack": attack, "examples": examples,
        "split": "test", "eigenvalues": eigenvalues, "tolerance": tolerance, "lanczos_steps": 64, "max_products": 256,
        "trace": "exact", "probes": 100, "density_probes": 1,
    }  # fmt: skip


def input_landscape(attack: Table, examples: int, eigenvalues: int) -> Table:
    return {
        "name": "input_landscape", "batch_size": 100, "attack": attack, "linearity": attack, "examples": examples,
        "split": "test", "eigenvalues": eigenvalues, "exact_up_to": 32, "lanczos_steps": 100, "tolerance": 1e-3,
    }  # fmt: skip


def landscape(attack: Table, examples: int, points: int) -> Table:
    return {
        "name": "landscape", "batch_size": 1000, "dimensions": 1, "attack": attack, "attack_at": "point",
        "points": points, "reach": 1.0, "draws": 1, "examples": examples, "split": "test", "rise_at": 0.5, "level": 0.5,
    }  # fmt: skip


AT = {"name": "at"}


def trades(beta: float) -> Table:
    return {"name": "trades", "beta": beta}


def mart(beta: float) -> Table:
    return {"name": "mart", "beta": beta}


def awp(over: Table, gamma: float, warmup: int = 0) -> Table:
    return {"name": "awp", "over": over, "gamma": gamma, "warmup": warmup}


def self_supervision(weight: float) -> Table:
    return {"name": "self_supervision", "weight": weight}


def unlabeled(labels: str) -> Table:
    return {"name": "unlabeled", "over": AT, "fraction": 0.7, "labels": labels, "teacher_seed": 0}


def advlc(weight: float, linear_warmup: bool = False) -> Table:
    return {"name": "advlc", "weight": weight, "top": 0.1, "linear_warmup": linear_warmup}


def decay(value: float) -> Table:
    return {"name": "weight_decay", "value": value}


def smoothing(amount: float) -> Table:
    return {"name": "label_smoothing", "amount": amount}


def noise(rate: float) -> Table:
    return {"name": "label_noise", "rate": rate}


def clipping(bound: float) -> Table:
    return {"name": "weight_clipping", "bound": bound}


def averaging(kind: str, decay: float = 0.9975, start: float = 0.0) -> Table:
    return {"name": "weight_averaging", "kind": kind, "decay": decay, "start": start}


def cutout(size: int) -> Table:
    return {"name": "cutout", "size": size, "fill": 0.5}


def entropy_sgd(steps: int) -> Table:
    return {
        "name": "entropy_sgd", "steps": steps, "gamma": 1e-4, "noise": 1e-4, "alpha": 0.75, "inner_lr": 0.1,
        "inner_momentum": 0.9, "inner_schedule": False,
    }  # fmt: skip


AUTOAUGMENT = {"name": "autoaugment"}
