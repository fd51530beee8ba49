"""Every trial and measure of every recipe, written out from the papers and the authors' code, not from the recipes."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

from recipe_parts import (
    AT,
    AUTOAUGMENT,
    Table,
    advlc,
    average,
    averaging,
    awp,
    cifar10,
    clipping,
    curvature,
    cutout,
    decay,
    digits,
    entropy_sgd,
    input_landscape,
    landscape,
    mart,
    measuring,
    noise,
    pgd,
    robustness,
    self_supervision,
    sgd,
    small_network,
    smoothing,
    steps_at,
    stopping,
    trades,
    unlabeled,
    weight_curvature_index,
    worst,
)

# Stutz21: the base recipe of its code, its 29 networks (the notebook's list), its sweeps

STUTZ_TRAINING = {
    "epochs": 150,
    "batch_size": 128,
    "optimizer": sgd(0.05),
    "schedule": steps_at(60, 90, 120),
    "attack": pgd(7, 0.007),
}
CYCLE = {"epochs": 30, "optimizer": sgd(0.2), "schedule": {"name": "cyclic", "period": 30.0, "peak": 0.5}}


def stutz(method: Table, *regularizers: Table, data: Table | None = None, **training: Any) -> Table:
    return {
        "data": data or cifar10(), "model": {"name": "resnet18", "width": 64}, "method": method,
        "regularizers": list(regularizers), "training": STUTZ_TRAINING | training, "seed": 0,
    }  # fmt: skip


def by_regularizer(*each: Iterable[Table]) -> list[Table]:
    return [stutz(AT, one) for one in chain(*each)]


STUTZ_MAIN = [
    stutz(AT),
    stutz(AT, attack=pgd(14, 0.007)),
    stutz(AT, attack=pgd(7, 0.007, eps=9 / 255)),
    stutz({"name": "ignore_incorrect"}),
    stutz({"name": "prevent_label_leaking"}),
    *by_regularizer([clipping(0.005)]),
    *by_regularizer(map(smoothing, (0.1, 0.2, 0.3, 0.4, 0.5))),
    *by_regularizer(map(noise, (0.1, 0.2, 0.3, 0.4, 0.5))),
    stutz(AT, **CYCLE),
    *by_regularizer(map(decay, (0.001, 0.01, 0.05))),
    *(stutz(self_supervision(weight)) for weight in (0.5, 1, 2, 4, 8)),
    *(stutz(trades(beta)) for beta in (1, 3, 6, 9)),
]
FILE_OF_IMAGES = {"size": None, "title": "tinyimages_500k"}
STUTZ_SWEEPS = [
    *(stutz(AT, attack=pgd(steps, 0.007)) for steps in (1, 3, 5)),
    *(stutz(AT, attack=pgd(7, 0.007, eps=eps / 255)) for eps in (6, 7)),
    stutz({"name": "at", "adversarial_fraction": 0.5}),
    *(stutz({"name": "pgd_tau", "tau": tau}) for tau in range(5)),
    *(stutz(mart(beta)) for beta in (1, 3, 6, 9)),
    *(stutz(awp(AT, gamma)) for gamma in (0.05, 0.01, 0.0075, 0.005, 0.004, 0.003, 0.0025, 0.002, 0.001)),
    *(stutz(awp(AT, gamma)) for gamma in (0.00075, 0.0005, 0.00025, 0.0001)),
    *(
        stutz({"name": "random_weight_perturbation", "over": AT, "xi": xi})
        for xi in (1, 0.75, 0.5, 0.4, 0.3, 0.25, 0.2, 0.1, 0.05)
    ),
    stutz(
        unlabeled("file"), data=cifar10(unlabeled=FILE_OF_IMAGES), epochs=45, schedule=steps_at(18, 27, 36)
    ),  # 45 * 50,000 / 38 steps: about the code's 150 * 391
    *by_regularizer(map(decay, (0, 0.0001, 0.005))),
    *by_regularizer(map(smoothing, (0.01, 0.05))),
    *by_regularizer([noise(0.05)]),
    *by_regularizer(map(clipping, (0.01, 0.015, 0.02))),
    stutz(AT, AUTOAUGMENT, cutout(16)),
    *by_regularizer(averaging("ema", ema) for ema in (0.98, 0.985, 0.99, 0.9975)),
    *by_regularizer(map(entropy_sgd, (1, 2, 3, 5))),
    *by_regularizer([{"name": "dropout", "rate": 0.1}]),
    *by_regularizer(
        {"name": "activation", "kind": kind} for kind in ("silu", "mish", "gelu", "softplus", "leaky_relu", "tanh")
    ),
    *(stutz(AT, optimizer=sgd(lr)) for lr in (0.2, 0.1, 0.01)),
    *(stutz(AT, optimizer=sgd(lr), schedule={"name": "constant"}) for lr in (0.1, 0.01, 0.005)),
    stutz(AT, schedule=steps_at(140, 145)),
    stutz(AT, schedule=steps_at(60, 90, 120, gamma=0.316)),
    *(stutz(AT, **(CYCLE | {"epochs": epochs})) for epochs in (60, 90, 120)),
    *(stutz(AT, batch_size=size) for size in (4, 8, 16, 32, 64, 256, 512)),
]
AT_8 = {"norm": "linf", "eps": 8 / 255}
STUTZ_MEASURES = [
    robustness(measuring(20, 0.007, restarts=10, **AT_8), 1000),
    average(measuring(20, 0.007, **AT_8), 10, 1000),
    worst(measuring(20, 0.007, **AT_8), 10, 20, 1000),
]


def stutz_small(method: Table, *regularizers: Table, data: Table | None = None, **training: Any) -> Table:
    base = {
        "epochs": 3, "batch_size": 100, "optimizer": sgd(0.05), "schedule": steps_at(1, 2),
        "attack": pgd(3, 0.05, eps=0.15),
    }  # fmt: skip
    return {
        "data": data or digits(400), "model": small_network(8), "method": method,
        "regularizers": list(regularizers), "training": base | training, "seed": 0,
    }  # fmt: skip


STUTZ_SMALL = [
    *map(
        stutz_small,
        (
            AT,
            {"name": "ignore_incorrect"},
            {"name": "prevent_label_leaking"},
            self_supervision(4),
            trades(9),
            mart(6),
            {"name": "at", "adversarial_fraction": 0.5},
            {"name": "pgd_tau", "tau": 2},
            awp(AT, 0.01),
            {"name": "random_weight_perturbation", "over": AT, "xi": 0.1},
        ),
    ),
    stutz_small(AT, attack=pgd(5, 0.05, eps=0.15)),
    stutz_small(AT, attack=pgd(3, 0.05, eps=0.2)),
    stutz_small(AT, optimizer=sgd(0.2), schedule={"name": "cyclic", "period": None, "peak": 0.5}),
    stutz_small(AT, optimizer=sgd(0.01), schedule={"name": "constant"}),
    stutz_small(AT, batch_size=64),
    stutz_small(unlabeled("teacher"), data=digits(400, unlabeled={"size": 200, "title": ""})),
    *(
        stutz_small(AT, one)
        for one in (
            clipping(0.005),
            smoothing(0.3),
            noise(0.4),
            decay(0.05),
            averaging("ema", 0.98),
            entropy_sgd(2),
            {"name": "dropout", "rate": 0.1},
            {"name": "activation", "kind": "silu"},
        )
    ),
    stutz_small(AT, AUTOAUGMENT, cutout(4)),
]

# Wu20: its AT script's defaults; TRADES with AWP as its TRADES script


def wu(method: Table, *regularizers: Table, lr: float = 0.1) -> Table:
    training = {
        "epochs": 200, "batch_size": 128, "optimizer": sgd(lr, nesterov=False), "schedule": steps_at(100, 150),
        "attack": pgd(10, 2 / 255, best=False), "early_stopping": stopping(measuring(10, 2 / 255, best_iterate=False)),
    }  # fmt: skip
    return {
        "data": cifar10(validation_size=1000), "model": {"name": "preact_resnet18", "width": 64}, "method": method,
        "regularizers": list(regularizers), "training": training, "seed": 0,
    }  # fmt: skip


WU_METHODS = [
    AT,
    trades(6),
    mart(5),
    awp(AT, 0.01),
    awp(trades(6), 0.005, warmup=10),
    awp(mart(5), 0.005, warmup=10),
]


def on_digits(
    method: Table, *regularizers: Table, epochs: int, batch_size: int = 100, stop: Table, width: int = 8,
    images: int = 300, schedule: Table, optimizer: Table, attack: Table,
) -> Table:  # fmt: skip
    training = {
        "epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "schedule": schedule, "attack": attack,
        "early_stopping": stop,
    }  # fmt: skip
    return {
        "data": digits(images), "model": small_network(width), "method": method,
        "regularizers": list(regularizers), "training": training, "seed": 0,
    }  # fmt: skip


WU_SMALL = [
    on_digits(
        method,
        epochs=20,
        schedule=steps_at(12, 16),
        optimizer=sgd(0.1, nesterov=False),
        attack=pgd(4, 0.05, eps=0.15, best=False),
        stop=stopping(measuring(5, 0.05, best_iterate=False)),
    )
    for method in (*WU_METHODS[:4], awp(trades(6), 0.005, warmup=1), awp(mart(5), 0.005, warmup=1))
]

# Li22: the defaults of its code, with --max_iter 10 --reg_lam 0.3 --reg_top 0.1, and --swa 50 n 500 --reg_lam 0.4


def li(method: Table, *regularizers: Table) -> Table:
    training = {
        "epochs": 200, "batch_size": 100, "optimizer": sgd(0.1, 1e-4, nesterov=False),
        "schedule": steps_at(100, 150), "attack": pgd(10, 2 / 255, random_start=False, best=False),
        "early_stopping": stopping(measuring(10, 2 / 255, random_start=False)),
    }  # fmt: skip
    return {
        "data": cifar10(validation_size=1000), "model": {"name": "preact_resnet18", "width": 64}, "method": method,
        "regularizers": list(regularizers), "training": training, "seed": 0,
    }  # fmt: skip


SWA = averaging("swa", start=0.25)
LI_CELLS = [(AT,), (advlc(0.3),), (advlc(0.3, linear_warmup=True),), (AT, SWA), (advlc(0.4), SWA)]
LI_SMALL = [
    on_digits(
        *cell,
        epochs=20,
        schedule=steps_at(12, 16),
        optimizer=sgd(0.1, 1e-4, nesterov=False),
        attack=pgd(4, 0.05, eps=0.15, random_start=False, best=False),
        stop=stopping(measuring(5, 0.05, random_start=False)),
    )
    for cell in LI_CELLS
]

# overfitting: the recipe of Stutz21, with a validation split

OVERFITTING_CELLS = [
    *((method,) for method in (AT, trades(6), mart(6), awp(AT, 0.01), self_supervision(4))),
    *((AT, one) for one in (noise(0.3), smoothing(0.3), decay(0.05), clipping(0.005))),
]
OVERFITTING_SMALL = [
    on_digits(
        *cell,
        epochs=40,
        width=12,
        schedule=steps_at(30, 36),
        optimizer=sgd(0.1),
        attack=pgd(4, 0.05, eps=0.15),
        stop=stopping(measuring(5, 0.05)),
    )
    for cell in ((AT,), (trades(6),), (AT, noise(0.3)))
]

# wci24: the recipe of Wu20 [ours]


def wci(*cell: Table, lr: float = 0.1) -> Table:
    trial = wu(*cell, lr=lr)
    return trial | {"training": trial["training"] | {"early_stopping": stopping(measuring(10, 2 / 255))}}


WCI = [
    *map(wci, (AT, trades(1), trades(6), awp(AT, 0.005), awp(AT, 0.01))),
    *(wci(AT, decay(value)) for value in (0, 1e-4, 1e-3, 5e-3)),
    *(wci(AT, noise(rate)) for rate in (0.1, 0.3)),
    *(wci(AT, lr=lr) for lr in (0.01, 0.05)),
]
WCI_SMALL = [
    on_digits(
        *cell,
        epochs=20,
        schedule=steps_at(12, 16),
        optimizer=sgd(0.1, nesterov=False),
        attack=pgd(4, 0.05, eps=0.15, best=False),
        stop=stopping(measuring(5, 0.05)),
    )
    for cell in ((AT,), (trades(6),), (awp(AT, 0.01),), (AT, decay(5e-3)))
]

TRIALS: dict[tuple[str, str | None], list[Table]] = {
    ("stutz21", None): STUTZ_MAIN + STUTZ_SWEEPS,
    ("stutz21", "small"): STUTZ_SMALL,
    ("wu20", None): [wu(method) for method in WU_METHODS],
    ("wu20", "small"): WU_SMALL,
    ("li22", None): [li(*cell) for cell in LI_CELLS],
    ("li22", "small"): LI_SMALL,
    ("overfitting", None): [
        stutz(*cell, data=cifar10(validation_size=1000), early_stopping=stopping(measuring(10, 0.007)))
        for cell in OVERFITTING_CELLS
    ],
    ("overfitting", "small"): OVERFITTING_SMALL,
    ("wci24", None): WCI,
    ("wci24", "small"): WCI_SMALL,
}
COUNTS = {"stutz21": (110, 25), "wu20": (6, 6), "li22": (5, 5), "overfitting": (9, 3), "wci24": (13, 4)}
"""Trials in full, and in the small form."""
LAST = measuring(20, 2 / 255, best_iterate=False)
WEAK = measuring(5, 0.05, eps=0.15)
MEASURES: dict[tuple[str, str | None], list[Table]] = {
    ("stutz21", None): STUTZ_MEASURES,
    ("stutz21", "small"): [robustness(WEAK, 200), average(WEAK, 4, 100), worst(WEAK, 2, 2, 100)],
    ("wu20", None): [
        robustness(LAST, 10_000),
        average(LAST, 10, 1000),
        worst(LAST, 10, 20, 1000),
        landscape(LAST, 1000, 21),
    ],
    ("wu20", "small"): [
        robustness(measuring(10, 0.0375, best_iterate=False), 300),
        average(measuring(10, 0.0375, best_iterate=False), 5, 150),
        worst(measuring(10, 0.0375, best_iterate=False), 2, 3, 150),
        landscape(measuring(10, 0.0375, best_iterate=False), 150, 11),
    ],
    ("li22", None): [
        robustness(measuring(50, 2 / 255), 10_000),
        average(measuring(20, 2 / 255), 10, 1000),
        worst(measuring(20, 2 / 255), 10, 20, 1000),
        input_landscape(measuring(20, 2 / 255), 1000, 20),
    ],
    ("li22", "small"): [
        robustness(measuring(10, 0.0375), 300),
        average(measuring(10, 0.0375), 5, 150),
        worst(measuring(10, 0.0375), 2, 3, 150),
        input_landscape(measuring(10, 0.0375), 50, 10),
    ],
    ("overfitting", None): [
        robustness(measuring(20, 0.007), 1000),
        average(measuring(20, 0.007), 10, 1000),
        worst(measuring(20, 0.007), 10, 20, 1000),
    ],
    ("overfitting", "small"): [robustness(measuring(8, 0.0375), 300), average(measuring(8, 0.0375), 4, 100)],
    ("wci24", None): [
        robustness(measuring(20, 2 / 255), 1000),
        average(measuring(20, 2 / 255), 10, 1000),
        worst(measuring(20, 2 / 255), 10, 20, 1000),
        weight_curvature_index(measuring(20, 2 / 255), 1000),
        curvature(measuring(20, 2 / 255), 1000),
    ],
    ("wci24", "small"): [
        robustness(measuring(8, 0.0375), 300),
        average(measuring(8, 0.0375), 4, 100),
        worst(measuring(8, 0.0375), 2, 2, 100),
        weight_curvature_index(measuring(8, 0.0375), 100),
        curvature(measuring(8, 0.0375), 100, 2, 0.01),
    ],
}
KEPT = {("overfitting", None): 5, ("overfitting", "small"): 8, ("wci24", None): 10, ("wci24", "small"): 5}
CHECKPOINTS = {"wu20": ("last", "best"), "li22": ("last", "best")} | dict.fromkeys(
    ("overfitting", "wci24"), ("last", "best", "kept")
)
