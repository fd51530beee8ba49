"""Every problem of a sweep file is reported at its line, and no bytes whatever give a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import UserError
from orchestrator.spec.loading import MAX_BYTES, load_sweep_file
from orchestrator.spec.starter import starter_text

GOOD = "name: x\ngrid:\n  methods: [at]\n  seeds: [0]\n"  # lines 1 to 4


def message(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "s.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError) as error:
        load_sweep_file(path)
    return str(error.value).replace(f"{tmp_path}/", "")


def grid(methods: str = "[at]", rest: str = "") -> str:
    return f"name: x\ngrid:\n  methods: {methods}\n  seeds: [0]\n{rest}"


BAD = {
    "empty": ("", 1, "the file is empty"),
    "only comments": ("# nothing\n", 1, "the file is empty"),
    "top-level list": ("- a\n", 1, "expected a mapping with 'name' and 'grid', got [\"a\"]"),
    "top-level text": ("hello\n", 1, 'got "hello"'),
    "syntax": ("name: x\ngrid: [1\n", 3, "not valid YAML"),
    "tab": ("name: x\ngrid:\n\tseeds: 1\n", 3, "YAML indents with spaces"),
    "undefined alias": ("name: *who\n", 1, "undefined alias"),
    "two documents": (GOOD + "---\na: 1\n", 5, "single document"),
    "control character": ("name: x\ngrid: \x07\n", 2, "control characters are not allowed"),
    "duplicate key": (GOOD + "name: y\n", 5, "name: key 'name' is given twice, first on line 1"),
    "nested duplicate": (
        grid(rest="training:\n  epochs: 1\n  epochs: 2\n"),
        7,
        "training.epochs: key 'epochs' is given",
    ),
    "unknown key": (GOOD + "trainig: {}\n", 5, "unknown key 'trainig'; did you mean 'training'?"),
    "unknown key deep": (grid(rest="training:\n  attack:\n    step: 3\n"), 7, "did you mean 'steps'?"),
    "unknown key in component": (
        grid("\n    - name: trades\n      betta: 1"),
        5,
        "grid.methods[0].betta: unknown key 'betta'; did you mean 'beta'?",
    ),
    "unknown key in optimizer": (
        grid(rest="training:\n  optimizer:\n    name: sgd\n    momentun: 0\n"),
        8,
        "did you mean 'momentum'?",
    ),
    "unknown key under over": (
        grid("\n    - name: awp\n      over:\n        name: trades\n        beat: 1"),
        7,
        "grid.methods[0].over.beat: unknown key 'beat'; did you mean 'beta'?",
    ),
    "missing grid": ("name: x\n", 1, "grid: required key 'grid' is missing"),
    "missing seeds": ("name: x\ngrid:\n  methods: [at]\n", 2, "grid.seeds: required key 'seeds' is missing"),
    "missing parameter": (
        grid(rest="  regularizers:\n    - none\n    - label_noise\n"),
        7,
        "grid.regularizers[1].rate: required key 'rate' is missing",
    ),
    "missing name": (grid("\n    - {beta: 3}"), 4, "a method needs a 'name'; allowed: standard, at"),
    "not whole": (grid(rest="training: {epochs: a}\n"), 5, 'training.epochs: expected a whole number, got "a"'),
    "fraction of an epoch": (grid(rest="training: {epochs: 2.5}\n"), 5, "expected a whole number, got 2.5"),
    "true is no number": (grid(rest="training: {epochs: true}\n"), 5, "expected a whole number, got true"),
    "not a number": (grid("\n    - {name: trades, beta: [1, q]}"), 4, 'beta[1]: expected a number, got "q"'),
    "bad fraction": (grid("\n    - {name: trades, beta: 1/0}"), 4, "'1/0' is not a fraction such as 8/255"),
    "not true or false": (grid(rest="training: {attack: {random_start: 7}}\n"), 5, "expected true or false, got 7"),
    "name not text": ("name: 3\ngrid: {methods: [at], seeds: [0]}\n", 1, "expected text, got 3; put it in quotes"),
    "name is a path": ("name: ../x\ngrid: {methods: [at], seeds: [0]}\n", 1, "'../x' is not a plain name"),
    "not a list": ("name: x\ngrid:\n  methods: at\n  seeds: [0]\n", 3, 'grid.methods: expected a list, got "at"'),
    "seeds not a list": ("name: x\ngrid:\n  methods: [at]\n  seeds: 3\n", 4, "grid.seeds: expected a list, got 3"),
    "not a mapping": (grid(rest="training: 3\n"), 5, "training: expected a mapping, got 3"),
    "empty axis": (grid("\n    - {name: trades, beta: []}"), 4, "the list is empty: give at least one value"),
    "empty methods": (grid("[]"), 3, "grid.methods: the list is empty"),
    "too large": (grid(rest="  regularizers: [{name: label_noise, rate: 2}]\n"), 5, "must be at most 1 (got 2)"),
    "negative seed": (
        "name: x\ngrid:\n  methods: [at]\n  seeds:\n    - 0\n    - -1\n",
        6,
        "must be at least 0 (got -1)",
    ),
    "zero lr": (grid(rest="training: {optimizer: {name: sgd, lr: 0}}\n"), 5, "lr: must be greater than 0 (got 0)"),
    "eps 8": (
        grid(rest="training:\n  attack:\n    steps: 1\n    eps: 8\n"),
        8,
        "training.attack.eps: eps 8 is out of range: at most 1 for linf",
    ),
    "eps 8 on an axis": (
        grid(rest="training:\n  attack:\n    eps:\n      - 8/255\n      - 8\n"),
        9,
        "training.attack.eps[1]: eps 8 is out of range",
    ),
    "eps of a measure": (
        grid(rest="evaluation:\n  measures:\n    - name: robustness\n      attack:\n        eps: 8\n"),
        9,
        "evaluation.measures[0].attack.eps: eps 8 is out of range",
    ),
    "unknown method": (grid("\n    - at\n    - tradse"), 5, "unknown method 'tradse'; did you mean 'trades'?"),
    "unknown regularizer": (grid(rest="  regularizers: [label_nose]\n"), 5, "did you mean 'label_noise'?"),
    "unknown measure": (grid(rest="evaluation: {measures: [robust]}\n"), 5, "unknown measure 'robust'"),
    "unknown data": (GOOD + "data: cifar\n", 5, "unknown data set 'cifar'; did you mean 'cifar10'?"),
    "awp over standard": (grid("\n    - {name: awp, over: standard}"), 4, "allowed: advlc, at, fgsm_rs"),
    "norm": (grid(rest="training: {attack: {norm: l3}}\n"), 5, "expected 'linf' or 'l2', got \"l3\""),
    "norm of a measure": (
        grid(rest="evaluation: {measures: [{name: robustness, attack: {norm: linv}}]}\n"),
        5,
        "did you mean 'linf'?",
    ),
    "number as key": (GOOD + "3: x\n", 5, "a key must be text, got 3"),
    "list as key": (GOOD + "[a]: x\n", 5, "a key must be text"),
    "python tag": (GOOD + "storage: !!python/object:os.system x\n", 5, "the YAML tag !!python/object:os.system is not"),
    "own tag": (GOOD + "storage: !secret x\n", 5, "the YAML tag !secret is not allowed"),
    "tag that does not fit": (grid(rest="training: {epochs: !!int abc}\n"), 5, "'abc' does not fit its tag !!int"),
    "nan": (grid(rest="training: {optimizer: {name: sgd, lr: .nan}}\n"), 5, "must be a finite number (got NaN)"),
    "infinite": (grid(rest="training: {optimizer: {name: sgd, lr: .inf}}\n"), 5, "must be a finite number"),
    "nan as text": (grid(rest="training: {optimizer: {name: sgd, lr: nan}}\n"), 5, "must be a finite number"),
    "huge integer": (GOOD + f"training: {{epochs: {'9' * 5000}}}\n", 5, "training.epochs: "),
    "huge fraction": (GOOD + f"training: {{optimizer: {{name: sgd, lr: {'9' * 400}/3}}}}\n", 5, "is not a fraction"),
    "huge number": (GOOD + f"training: {{optimizer: {{name: sgd, lr: {'9' * 90}}}}}\nmodell: 1\n", 6, "unknown key"),
    "too many cells": (
        grid(rest=f"training: {{epochs: {list(range(1, 999))}, batch_size: {list(range(1, 999))}}}\n"),
        2,
        "cells; at most 100,000 fit one sweep",
    ),
    "duplicate seed": (
        "name: x\ngrid:\n  methods: [at]\n  seeds:\n    - 4\n    - 4\n",
        6,
        "grid.seeds[1]: this is in the",
    ),
    "duplicate method": (
        grid("\n    - trades\n    - {name: trades, beta: 6}"),
        5,
        "grid.methods[1]: this is in the grid",
    ),
    "regularizer twice": (
        grid(rest="  regularizers:\n    - - {name: label_noise, rate: 0.1}\n      - {name: label_noise, rate: 0.2}\n"),
        7,
        "'label_noise' is given twice",
    ),
    "exclude nothing": (grid(rest="  exclude:\n    - {method: att}\n"), 6, "did you mean 'at'?"),
    "exclude everything": (grid(rest="  exclude:\n    - {method: at}\n"), 5, "every cell is excluded"),
    "exclude without keys": (grid(rest="  exclude:\n    - {}\n"), 6, "an empty exclude would remove every cell"),
    "data list": (GOOD + "data: [digits, mnist]\n", 5, "data: expected one data set's name or mapping, got a list"),
    "storage without bucket": (GOOD + "storage: s3://\n", 5, "names a bucket or a server"),
    "storage with credentials": (
        GOOD + "storage: s3://key:secret@bucket/x\n",
        5,
        "credentials come from the environment",
    ),
    "storage with a query": (
        GOOD + "storage: s3://bucket/x?token=secret\n",
        5,
        "credentials come from the environment",
    ),
    "storage that climbs": (GOOD + "storage: s3://bucket/a/../../b\n", 5, "no empty parts, '.' or '..'"),
    "storage behind a cache": (GOOD + "storage: simplecache::s3://bucket\n", 5, "begins with one scheme"),
    "storage as a file's address": (GOOD + "storage: file:///tmp/x\n", 5, "given as a plain path"),
    "storage with NUL": (GOOD + 'storage: "a\\0b"\n', 5, "storage is a folder, or an address"),
    "endless storage": (GOOD + f"storage: {'x' * 600}\n", 5, "storage is too long"),
    "storage of nobody": (GOOD + "storage: ~nobody-has-this-name/x\n", 5, "storage: not a folder"),
    "same value twice": (grid(rest="evaluation: {measures: [robustness, robustness]}\n"), 5, "record the same value"),
    "self-reference": ("name: x\ngrid: &a\n  methods: *a\n", 2, "levels deep"),
    "deep": ("[" * 300_000, 1, "levels deep"),
    "merge of text": (GOOD + "training:\n  <<: text\n", 6, "'<<' takes an alias of a mapping"),
    "wide depth": (grid(rest="model: {name: wide_resnet, depth: 11}\n"), 5, "model.depth: depth 11 is not 6n + 4"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file(case: str, tmp_path: Path) -> None:
    text, line, phrase = BAD[case]
    found = message(tmp_path, text)
    assert phrase in found
    hit = next(row for row in found.splitlines() if phrase in row)
    assert hit.startswith(f"s.yaml:{line}:")
    assert all(len(row) < 700 for row in found.splitlines())


def test_every_problem_in_one_message_in_order(tmp_path: Path) -> None:
    found = message(tmp_path, "name: x/\ngrid:\n  methods: [att]\n  seeds: [-1]\nmodl: 1\n").splitlines()
    assert [row.split(":")[1] for row in found] == ["1", "3", "4", "5"]


def test_follow_on_errors_are_dropped(tmp_path: Path) -> None:
    assert len(message(tmp_path, grid(rest="  regularizers: [{name: label_noise, rate: 2}]\n")).splitlines()) == 1


def test_a_shared_error_of_several_variants_is_shown_once(tmp_path: Path) -> None:
    text = grid(rest="training:\n  attack: {steps: [1, 2, 3], norm: l3}\n")
    assert len(message(tmp_path, text).splitlines()) == 1


def test_syntax_error_has_a_column(tmp_path: Path) -> None:
    assert message(tmp_path, "a: b: c\n").startswith("s.yaml:1:5: not valid YAML")


def test_alias_bomb(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "over 200,000 values" in message(tmp_path, "\n".join(rows))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    assert "not UTF-8 text: byte 0xff" in message(tmp_path, b"name: x\n\xff\xfe")
    assert "s.yaml:2:" in message(tmp_path, b"name: x\n\xff\xfe")
    assert "larger than 1 MiB" in message(tmp_path, b"#" * (MAX_BYTES + 1))
    with pytest.raises(UserError, match="this is a folder"):
        load_sweep_file(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load_sweep_file(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_sweep_file(tmp_path / "a\0b")


def test_good_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    text = GOOD + "training: &t\n  epochs: 3\n  optimizer: {name: sgd, lr: 1e-1}\ndata: {name: mnist, root: d}\n"
    path.write_text(text)
    file = load_sweep_file(path)
    assert (file.text, file.path) == (text, path)
    assert file.sweep.storage == str(tmp_path / "runs")
    assert file.sweep.training[0].optimizer.lr == 0.1
    assert file.sweep.data[0].root == str(tmp_path / "d")  # type: ignore[attr-defined]


def test_merge_keys(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: x\ngrid:\n  methods:\n    - &t {name: trades, beta: 1}\n    - {<<: *t, beta: 2}\n  seeds: [0]\n"
    )
    assert [method.label() for method in load_sweep_file(path).sweep.grid[0].methods] == [
        "trades(beta=1)",
        "trades(beta=2)",
    ]


def test_many_errors_are_cut(tmp_path: Path) -> None:
    found = message(tmp_path, grid(rest="  regularizers:\n" + "    - nothing\n" * 500)).splitlines()
    assert len(found) == 101 and found[-1].endswith("and 400 more")


def attempt(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        load_sweep_file(path)
    except UserError as error:
        assert str(error).startswith(str(path))
        assert all(row.isprintable() for row in str(error).splitlines())


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    attempt(tmp_path / "f.yaml", content)


TOKENS = [
    *("[", "]", "{", "}", "[]", "{}", ": ", "- ", "? ", "\n", "  ", "\t", "'", "%", "|\n", "*a", "&a ", "<<: "),
    *("!!set ", "!!float ", "~", "~x", "null", "true", "name", "1/0", ".nan", "1e999", "-1", "0x", "0o8", "9" * 400),
    *("\0", "\u00e9", "\u202e"),
]


@FUZZ
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(TOKENS)), min_size=1, max_size=4))
def test_mutations_of_a_good_file(tmp_path: Path, edits: list[tuple[float, int, str]]) -> None:
    text = "\n".join(row.split(" #")[0] for row in starter_text().splitlines() if not row.lstrip().startswith("#"))
    for where, cut, token in edits:
        at = int(where * len(text))
        text = text[:at] + token + text[at + cut :]
    attempt(tmp_path / "f.yaml", text.encode())


def test_loading_imports_nothing_heavy() -> None:
    code = (
        "import sys, orchestrator.spec.loading, orchestrator.spec.schema, orchestrator.spec.starter\n"
        "print(*{'torch', 'ray', 'mlflow', 'pandas', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
