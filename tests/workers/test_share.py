"""A worker's share of cores and of a GPU's memory."""

import json
import subprocess
import sys

import pytest
import torch

from workers.failures import ErrorClass, classify
from workers.share import CONTEXT_BYTES, GpuMemory, memory_fraction, shared_memory, shortage_note, threads_of

GIB = 2**30
LOOK = """
import json, os, sys
import numpy, torch
from threadpoolctl import threadpool_info
from workers.share import take_share
take_share(float(sys.argv[1]), 0.5)
import scipy.linalg
torch.ones(64, 64) @ torch.ones(64, 64)
print(json.dumps({
    "torch": [torch.get_num_threads(), torch.get_num_interop_threads()],
    "libraries": sorted({pool["num_threads"] for pool in threadpool_info()}),
    "openmp": os.environ["OMP_NUM_THREADS"],
}))
"""


@pytest.mark.parametrize(("cpu", "threads"), [(0.25, 1), (1, 1), (1.5, 2), (3, 3), (8, 8)])
def test_a_thread_for_each_core(cpu: float, threads: int) -> None:
    assert threads_of(cpu) == threads


def test_every_library_keeps_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment said before, for libraries loaded before and after."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "3")
    command = [sys.executable, "-c", LOOK, "1.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout) == {"torch": [2, 1], "libraries": [2], "openmp": "2"}


@pytest.mark.parametrize("total", [8 * GIB, 24 * GIB, 80 * GIB])
@pytest.mark.parametrize("gpu", [0.1, 0.25, 0.5, 0.75])
def test_shares_and_contexts_fit_on_the_gpu(gpu: float, total: int) -> None:
    trials = int(1 / gpu)
    fraction = memory_fraction(gpu, total)
    assert gpu / 2 <= fraction < gpu
    if gpu * total >= 2 * CONTEXT_BYTES:
        assert trials * (fraction * total + CONTEXT_BYTES) <= total * (1 + 1e-9)


@pytest.mark.parametrize("gpu", [1, 2])
def test_whole_gpus_have_no_limit(gpu: float) -> None:
    assert memory_fraction(gpu, 80 * GIB) == 1


def test_what_is_said_when_memory_runs_out() -> None:
    note = shortage_note(GpuMemory(allowed=19 * GIB, held=4 * GIB))
    assert "held 4.0 of the 19.0 GiB" in note and "neighbour" in note and "`resources.gpu`" in note
    assert shortage_note(None) == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without GPU")
def test_without_gpu_there_is_nothing_to_say() -> None:
    assert shared_memory() is None


@pytest.mark.parametrize(
    "text",
    ["CUDA error: out of memory\nSearch for cudaErrorMemoryAllocation", "CUBLAS_STATUS_ALLOC_FAILED when calling x"],
)
def test_a_context_that_does_not_fit_is_out_of_memory(text: str) -> None:
    assert classify(RuntimeError(text)) is ErrorClass.OUT_OF_MEMORY


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_trial_beyond_its_share_fails_alone() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(memory_fraction(0.1, total), 0)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(0.2 * total), dtype=torch.uint8, device="cuda")
        torch.empty(2**20, device="cuda")
        found = shared_memory()
        assert found is not None and found.allowed < 0.1 * total
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
