"""The GPUs of this machine: what the driver shows, whether torch can compute on them, whether the sweep wants any."""

import re
import shutil
import subprocess

from orchestrator.doctor.finding import Finding, Level, Question, first_line

CHECK = "gpu"
SECONDS = 20.0


def findings(question: Question) -> list[Finding]:
    """One line for torch and the driver, one for what the sweep wants of them."""
    wanted = question.sweep.resources.gpu if question.sweep else 0.0
    # with a cluster, the GPUs that count are its own: the check of Ray looks at them
    here = wanted if question.address is None else 0.0
    smi = _nvidia_smi()
    import torch

    built_for = torch.version.cuda
    if torch.cuda.is_available():
        return [_computing(torch.cuda.device_count(), smi), *_unused(question, wanted)]
    if smi is None:
        what = "no NVIDIA GPU here: there is no nvidia-smi"
        if here:
            return [Finding(CHECK, Level.PROBLEM, f"{what}, and a trial wants {here:g}", "resources: {gpu: 0}, or run "
                            "on a cluster with GPUs (--address)")]  # fmt: skip
        return [Finding(CHECK, Level.OK, f"{what}; trials here run on the CPU")]
    return [_unseen(smi, built_for, Level.PROBLEM if here else Level.WARNING)]


def _computing(count: int, smi: tuple[str, str] | None) -> Finding:
    """A kernel is really run: torch sees GPUs that are older or newer than what it was built for."""
    import torch

    try:
        for index in range(count):
            assert float(torch.ones(8, device=f"cuda:{index}").sum()) == 8.0  # noqa: S101
    except (RuntimeError, AssertionError) as error:
        what = f"torch {torch.__version__} sees {count} GPUs and cannot compute on them: {first_line(error)}"
        return Finding(CHECK, Level.PROBLEM, what, "install a torch that was built for this GPU and driver")
    names = ", ".join(sorted({torch.cuda.get_device_name(index) for index in range(count)}))
    driver = f", driver {smi[0]}" if smi else ""
    return Finding(CHECK, Level.OK, f"{count} GPU ({names}), CUDA {torch.version.cuda}{driver}; torch computes on it")


def _unused(question: Question, wanted: float) -> list[Finding]:
    if question.sweep is None or wanted or question.address is not None:
        return []
    what = "the sweep wants no GPU, and one is here: its trials run on the CPU"
    return [Finding(CHECK, Level.WARNING, what, "resources: {gpu: 1} in the sweep file, if that is not meant")]


def _unseen(smi: tuple[str, str], built_for: str | None, level: Level) -> Finding:
    """Why torch sees none of the GPUs that the driver shows."""
    driver, supports = smi
    if built_for is None:
        what = f"the driver {driver} is here, and this torch was built without CUDA"
        return Finding(CHECK, level, what, "install the torch of the package index, not its CPU build")
    if supports and _numbers(supports) < _numbers(built_for):
        what = f"the driver {driver} goes up to CUDA {supports}, and torch was built for CUDA {built_for}"
        return Finding(CHECK, level, what, f"a newer driver, or a torch built for CUDA {supports} or earlier")
    what = f"nvidia-smi answers (driver {driver}, CUDA {supports or '?'}), and torch (CUDA {built_for}) sees no GPU"
    return Finding(CHECK, level, what, "look at CUDA_VISIBLE_DEVICES, and whether the container was given the GPUs")


def _nvidia_smi() -> tuple[str, str] | None:
    """Versions of the driver and of the CUDA that it supports; None without nvidia-smi, or where it finds no GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    driver, supports = (
        re.search(rf"{words}:\s*([\d.]+)", done.stdout) for words in ("Driver Version", r"CUDA (?:UMD )?Version")
    )
    return (driver[1] if driver else "?", supports[1] if supports else "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
