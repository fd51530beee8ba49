"""Components of other packages, installed as an installer leaves them: found, checked, refused with one message."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from orchestrator import cli
from orchestrator.errors import UserError
from orchestrator.spec import plugins
from orchestrator.spec.base import canonical, digest, packages
from orchestrator.spec.data import DATA
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.measures import MEASURES
from orchestrator.spec.methods import METHODS, WEIGHT_PERTURBABLE, AdversarialTraining
from orchestrator.spec.models import MODELS
from orchestrator.spec.reference import reference
from orchestrator.spec.regularizers import REGULARIZERS
from orchestrator.spec.schema import sweep_schema
from orchestrator.spec.sweep import Evaluation, Trial

METHOD = """
from typing import Literal
from orchestrator.spec.methods import Method

class Mine(Method):
    \"\"\"A method of somebody else.\"\"\"
    implementation = "nowhere:Mine"
    weight_perturbable = True
    name: Literal["mine"] = "mine"
    strength: float = 0.5
"""
REGULARIZER = """
from typing import Literal
from orchestrator.spec.regularizers import Regularizer

class Mine(Regularizer):
    implementation = "nowhere:Mine"
    name: Literal["{name}"] = "{name}"
"""
MEASURE = """
from typing import Literal
from orchestrator.spec.measures import Measure

class Mine(Measure):
    implementation = "nowhere:Mine"
    name: Literal["mine"] = "mine"
"""
DATASET = """
from pathlib import Path
from typing import Literal
from orchestrator.spec.data import Data

class Mine(Data):
    implementation = "nowhere:load"
    name: Literal["mine"] = "mine"
    def obstacle(self):
        return "the moon is not full"
"""
SWEEP = "name: x\ngrid:\n  methods: {methods}\n  seeds: [0]\n"


@dataclass(frozen=True)
class Site:
    """A folder on the import path."""

    folder: Path

    def install(self, package: str, points: dict[str, str], code: str = "", version: str = "1.5") -> None:
        """Puts a package of one module there, with the given lines of entry points by group."""
        (self.folder / f"{package}.py").write_text(code)
        info = self.folder / f"{package}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = [f"[flatsweep.{group}]\n{line}\n" for group, line in points.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        plugins._installed.cache_clear()

    def uninstall(self, package: str) -> None:
        for path in sorted(self.folder.rglob(f"{package}*/*")) + sorted(self.folder.glob(f"{package}*")):
            path.rmdir() if path.is_dir() else path.unlink()
        forget()


def forget() -> None:
    """As in a fresh interpreter."""
    plugins._installed.cache_clear()
    for registry in (METHODS, REGULARIZERS, MEASURES, MODELS, DATA):
        registry._offered.clear()
        registry._warned.clear()
    for name in [name for name in sys.modules if name.startswith("theirs")]:
        del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    forget()
    yield Site(folder)
    forget()


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code and what was said, of a command for which an import of Ray would fail loudly."""
    monkeypatch.setattr(sys, "argv", ["flatsweep", *words])
    monkeypatch.setitem(sys.modules, "ray", None)
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


def trial(**changes: Any) -> Trial:
    parts = {"data": "digits", "model": "small_preact_resnet", "method": "at", "training": {}, "seed": 0}
    return Trial.model_validate(parts | changes)


# ---- one that works ------------------------------------------------------------------------------------------------


def test_a_method_of_another_package_is_one_like_any_other(site: Site, tmp_path: Path) -> None:
    site.install("theirs", {"methods": "mine = theirs:Mine"}, METHOD)
    assert METHODS.names()[-1] == "mine" and list(METHODS.classes()) == METHODS.names()
    methods = "[at, {name: mine, strength: [1, 2]}, {name: awp, over: mine}]"
    (tmp_path / "s.yaml").write_text(SWEEP.format(methods=methods))
    trials = load_sweep_file(tmp_path / "s.yaml").sweep.trials()
    labels = [found.method.label() for found in trials]
    assert labels == ["at", "mine(strength=1)", "mine(strength=2)", "awp(mine, gamma=0.01)"]
    for found in trials:
        assert Trial.model_validate_json(found.model_dump_json()) == found
    assert [packages(found) for found in trials] == [{}, *[{"theirs": "1.5"}] * 3]
    assert packages(trials[0], Evaluation()) == {}


def test_its_parameters_are_explained(site: Site, monkeypatch: Any, capsys: Any) -> None:
    site.install("theirs", {"methods": "mine = theirs:Mine"}, METHOD)
    Path("s.yaml").write_text(SWEEP.format(methods="\n    - name: mine\n      strenght: 1"))
    _, _, said = run(monkeypatch, capsys, "plan", "s.yaml")
    assert "s.yaml:5: grid.methods[0].strenght: unknown key 'strenght'; did you mean 'strength'?" in said
    Path("s.yaml").write_text(SWEEP.format(methods="[mime]"))
    assert "unknown method 'mime'; did you mean 'mine'?" in run(monkeypatch, capsys, "plan", "s.yaml")[2]


def test_the_schema_has_it_and_the_reference_page_has_not(site: Site) -> None:
    page = reference()
    site.install("theirs", {"methods": "mine = theirs:Mine"}, METHOD)
    validator = jsonschema.Draft202012Validator(sweep_schema())
    good = {"name": "x", "grid": {"methods": ["mine", {"name": "mine", "strength": [1, 2]}], "seeds": [0]}}
    validator.validate(good)
    bad = {"name": "x", "grid": {"methods": [{"name": "mine", "strenght": 1}], "seeds": [0]}}
    assert not validator.is_valid(bad)
    assert reference() == page


def test_nothing_is_imported_that_a_sweep_does_not_name(site: Site, tmp_path: Path) -> None:
    site.install("theirs", {"methods": "mine = theirs:Mine"}, METHOD)
    site.install("theirs_too", {"methods": "other = theirs_too:Mine"}, "raise SystemExit('imported')")
    cases = (("[{name: trades, beta: [1, 2]}]", set()), ("[{name: at, betta: 1}]", set()), ("[at, mine]", {"theirs"}))
    for methods, imported in cases:
        (tmp_path / "s.yaml").write_text(SWEEP.format(methods=methods))
        with contextlib.suppress(UserError):
            load_sweep_file(tmp_path / "s.yaml")
        assert {"mine", "other"} <= set(METHODS.names())
        assert {name for name in sys.modules if name.startswith("theirs")} == imported


def test_weight_perturbation_goes_over_methods_that_allow_it(site: Site) -> None:
    site.install("theirs", {"methods": "mine = theirs:Mine"}, METHOD.replace("    weight_perturbable = True\n", ""))
    assert "mine" in METHODS.names() and "mine" not in WEIGHT_PERTURBABLE.names()
    with pytest.raises(ValidationError, match="unknown method under awp 'mine'"):
        METHODS.parse({"name": "awp", "over": "mine"})
    site.uninstall("theirs")
    site.install("theirs", {"methods": "mine = theirs:Mine"}, METHOD)
    assert METHODS.parse({"name": "awp", "over": "mine"}).label() == "awp(mine, gamma=0.01)"
    assert WEIGHT_PERTURBABLE.names() == [*WEIGHT_PERTURBABLE.names()[:-1], "mine"]


def test_what_may_be_perturbed_is_pinned() -> None:
    allowed = {"at", "trades", "mart", "pgd_tau", "self_supervision", "advlc", "ignore_incorrect",
               "prevent_label_leaking", "fgsm_rs"}  # fmt: skip
    assert allowed <= set(WEIGHT_PERTURBABLE.names())
    assert not {"standard", "awp", "random_weight_perturbation"} & set(WEIGHT_PERTURBABLE.names())


def test_one_that_also_registers_itself(site: Site) -> None:
    code = METHOD.replace("import Method", "import METHODS, Method")
    code = code.replace("class Mine", "@METHODS.register\nclass Mine")
    code += code.replace('"mine"', '"more"').replace("Mine", "More")
    site.install("theirs", {"methods": "mine = theirs:Mine\nmore = theirs:More"}, code)
    try:
        before = METHODS.names()
        assert METHODS.parse("more").label() == "more"  # both are registered by its import
        assert METHODS.parse("mine").label() == "mine"
        assert METHODS.names() == before
    finally:
        METHODS._registered.pop("mine")
        METHODS._registered.pop("more")


# ---- identity ------------------------------------------------------------------------------------------------------


def test_identity_holds_the_package(site: Site) -> None:
    site.install("theirs", {"methods": "mine = theirs:Mine"}, METHOD)
    found = METHODS.parse("mine")
    text = '{"_package":"theirs","name":"mine","strength":0.5}'
    assert digest(found) == hashlib.sha256(text.encode()).hexdigest()[:16]
    over = METHODS.parse({"name": "awp", "over": "mine"})
    assert canonical(over)["over"] == canonical(found) and "_package" not in canonical(over)
    assert json.loads(trial(method="mine").model_dump_json())["method"] == {"name": "mine", "strength": 0.5}


def test_two_packages_one_after_the_other_make_two_trials(site: Site) -> None:
    ids = set()
    for package in ("theirs_one", "theirs_two"):
        site.install(package, {"methods": f"mine = {package}:Mine"}, METHOD)
        ids.add(trial(method="mine").trial_id)
        site.uninstall(package)
    assert len(ids) == 2


def test_the_order_of_regularizers_does_not_depend_on_the_installation(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Site(tmp_path / "other")
    other.folder.mkdir()
    monkeypatch.syspath_prepend(str(other.folder))
    parts = ["zeta", {"name": "input_gradient", "weight": 1}, "alpha"]
    ids, orders = set(), []
    for first, second in ((site, other), (other, site)):
        first.install("theirs_a", {"regularizers": "alpha = theirs_a:Mine"}, REGULARIZER.format(name="alpha"))
        second.install("theirs_z", {"regularizers": "zeta = theirs_z:Mine"}, REGULARIZER.format(name="zeta"))
        found = trial(regularizers=parts)
        ids.add(found.trial_id)
        orders.append([regularizer.name for regularizer in found.regularizers])
        first.uninstall("theirs_a")
        second.uninstall("theirs_z")
    assert len(ids) == 1 and orders == [["input_gradient", "alpha", "zeta"]] * 2


def test_an_instance_of_a_class_that_its_name_does_not_mean() -> None:
    class Other(AdversarialTraining):
        pass

    with pytest.raises(ValidationError, match="method 'at' is of another class"):
        trial(method=Other())


# ---- those that do not work ----------------------------------------------------------------------------------------

LITERAL = 'name: Literal["mine"] = "mine"'
BROKEN = {
    "no module": ("methods", "mine = theirs.gone:Mine", METHOD, "ModuleNotFoundError: No module named 'theirs.gone'"),
    "no class": ("methods", "mine = theirs:Gone", METHOD, "AttributeError: module 'theirs' has no attribute 'Gone'"),
    "no Python": ("methods", "mine = theirs:Mine", "class Mine(:", "SyntaxError"),
    "leaves": ("methods", "mine = theirs:Mine", "raise SystemExit(0)", "cannot be imported: SystemExit: 0"),
    "raises": ("methods", "mine = theirs:Mine", "raise OSError('no\\nGPU')", "cannot be imported: OSError: no GPU"),
    "no class named": ("methods", "mine = theirs", METHOD, "is not of the form package.module:Class"),
    "a function": ("methods", "mine = theirs:Mine", "def Mine(): pass", "is no subclass of Method"),
    "another kind": ("methods", "mine = theirs:Mine", REGULARIZER.format(name="mine"), "is no subclass of Method"),
    "the base itself": ("methods", "mine = theirs:Method", METHOD, "is no subclass of Method"),
    "another name": ("methods", "mine = theirs:Mine", METHOD.replace('"mine"', '"yours"'), "Mine needs the field"),
    "a free name": ("methods", "mine = theirs:Mine", METHOD.replace(LITERAL, 'name: str = "mine"'), "Literal['mine']"),
    "no default": ("methods", "mine = theirs:Mine", METHOD.replace(LITERAL, LITERAL[:21]), "Literal['mine']"),
    "no implementation": (
        "methods", "mine = theirs:Mine", METHOD.replace("implementation =", "implementation: ClassVar[str] #")
        .replace("import Literal", "import ClassVar, Literal"), "Mine needs `implementation"
    ),
    "implementation is no path": (
        "methods", "mine = theirs:Mine", METHOD.replace("nowhere:Mine", "nowhere.Mine"), "Mine needs `implementation"
    ),
    "a path as name": (
        "regularizers", "../mine = theirs:Mine", REGULARIZER.format(name="../mine"), "may not be called '../mine'"
    ),
    "none": ("regularizers", "none = theirs:Mine", REGULARIZER.format(name="none"), "may not be called 'none'"),
    "no keys": ("measures", "mine = theirs:Mine", MEASURE, "Mine does not define keys"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken(case: str, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    group, point, code, reason = BROKEN[case]
    name = point.split(" = ")[0]
    kind = {"methods": "method", "regularizers": "regularizer", "measures": "measure"}[group]
    site.install("theirs", {group: point}, code)
    used = {
        "methods": SWEEP.format(methods=f"[{name}]"),
        "regularizers": SWEEP.format(methods=f"[at]\n  regularizers: [{{name: {name}}}]"),
        "measures": SWEEP.format(methods="[at]") + f"evaluation: {{measures: [{name}]}}\n",
    }[group]
    Path("s.yaml").write_text(used)
    code_, out, said = run(monkeypatch, capsys, "plan", "s.yaml")
    assert (code_, out) == (2, "") and "Traceback" not in said
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: s.yaml:")
    assert f"{kind} '{name}' cannot be used: entry point '{point}' of package theirs 1.5" in said
    assert reason in said

    Path("s.yaml").write_text(SWEEP.format(methods="[at]"))  # one that does not name it
    code_, out, said = run(monkeypatch, capsys, "plan", "s.yaml")
    assert (code_, said) == (0, "") and "1 trials: 1 to run." in out


def test_a_list_of_all_leaves_out_the_broken_one_and_says_so_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    site.install("theirs", {"methods": "mine = theirs:Gone"}, METHOD)
    code, out, _ = run(monkeypatch, capsys, "schema")
    assert code == 0 and '"mine"' not in json.dumps(json.loads(out))
    assert list(METHODS.classes()) == METHODS.names()[:-1]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("method 'mine' is left out: entry point 'mine = theirs:Gone' of package theirs 1.5 ")
    Path("s.yaml").write_text(SWEEP.format(methods="[zzz]"))
    assert "unknown method 'zzz'; allowed: advlc, at" in (said := run(monkeypatch, capsys, "plan", "s.yaml")[2])
    assert "mine (broken)" in said


@pytest.mark.parametrize(
    ("group", "name", "sweep"),
    [
        ("methods", "at", SWEEP.format(methods="[at]")),
        ("methods", "at", SWEEP.format(methods="[awp]")),
        ("methods", "at", SWEEP.format(methods="[random_weight_perturbation]")),
        ("datasets", "digits", SWEEP.format(methods="[at]")),
        ("models", "small_preact_resnet", SWEEP.format(methods="[at]")),
        ("measures", "robustness", SWEEP.format(methods="[at]")),
    ],
    ids=["named", "inside awp", "inside random_weight_perturbation", "data", "model", "measure"],
)
def test_a_name_of_flatsweeps_own(
    group: str, name: str, sweep: str, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Used by name or only as a default: a worker reads it by its name either way."""
    site.install("theirs", {group: f"{name} = theirs:Mine"}, "raise SystemExit('imported')")
    Path("s.yaml").write_text(sweep)
    code, out, said = run(monkeypatch, capsys, "plan", "s.yaml")
    assert (code, out) == (2, "") and len(said.splitlines()) == 1
    assert f"'{name}' cannot be used: several have this name" in said
    assert f"flatsweep itself; entry point '{name} = theirs:Mine' of package theirs 1.5" in said


def test_two_packages_with_one_name(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("theirs_b", "theirs_a"):
        site.install(package, {"methods": f"mine = {package}:Mine"}, METHOD)
    Path("s.yaml").write_text(SWEEP.format(methods="[mine]"))
    code, _, said = run(monkeypatch, capsys, "plan", "s.yaml")
    assert code == 2 and len(said.splitlines()) == 1
    assert (
        "method 'mine' cannot be used: several have this name, uninstall all but one: entry point 'mine = "
        "theirs_a:Mine' of package theirs_a 1.5; entry point 'mine = theirs_b:Mine' of package theirs_b 1.5" in said
    )
    Path("s.yaml").write_text(SWEEP.format(methods="[at]"))
    assert run(monkeypatch, capsys, "plan", "s.yaml")[0] == 0


def test_a_recorded_sweep_whose_package_is_gone(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from orchestrator.recorded import remember

    site.install("theirs", {"methods": "mine = theirs:Mine"}, METHOD)
    Path("s.yaml").write_text(SWEEP.format(methods="[mine]"))
    remember(load_sweep_file(Path("s.yaml")))
    assert run(monkeypatch, capsys, "plan", "x")[0] == 0
    site.uninstall("theirs")
    code, _, said = run(monkeypatch, capsys, "plan", "x")
    assert code == 2 and "x/sweep.json: unknown method 'mine'" in said and "damaged" not in said


def test_a_data_set_says_what_is_in_its_way(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("theirs", {"datasets": "mine = theirs:Mine"}, DATASET)
    Path("s.yaml").write_text(SWEEP.format(methods="[at]") + "data: mine\n")
    code, _, said = run(monkeypatch, capsys, "submit", "s.yaml")
    assert (code, said.strip()) == (2, "error: data: the moon is not full")
    assert not Path("runs").exists()
