"""A worker's share of its machine: threads of the numerical libraries, and memory of a GPU that trials share."""

import math
import os
from dataclasses import dataclass

import torch

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""What libraries that are loaded later, and child processes, look at."""
CONTEXT_BYTES = 2**30
"""GPU memory that a process takes beside its tensors: the CUDA context and kernels. An allowance, not a measurement."""
GIB = 2**30


@dataclass(frozen=True)
class GpuMemory:
    """Of a process on a GPU that it shares, in bytes."""

    allowed: int
    """What its tensors may take."""
    held: int
    """What they took."""


def threads_of(cpu: float) -> int:
    """Threads for a share of so many cores: one for each, and for a part of one."""
    return max(1, math.ceil(cpu))


def memory_fraction(gpu: float, total: int) -> float:
    """How much of a GPU's memory the tensors of a process may take, in (0, 1].

    Without a limit the first trial that needs too much takes what its neighbours need next, and they fail for it. The
    context of each process lies outside of PyTorch's count, so that it is taken off the share, at most half of it.

    Args:
        gpu: the share of the GPU; 1 or more: the whole.
        total: bytes that the GPU has.
    """
    return 1.0 if gpu >= 1 else max(gpu - CONTEXT_BYTES / total, gpu / 2)


def take_share(cpu: float, gpu: float) -> None:
    """Keeps this process within its share. Called once, before it computes anything.

    Args:
        cpu: cores.
        gpu: of the first GPU that the process sees; no limit for 0, or where PyTorch sees none.
    """
    from threadpoolctl import threadpool_limits  # here, so that trials run by hand need nothing but PyTorch

    threads = threads_of(cpu)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    threadpool_limits(threads)  # of the libraries that are loaded already, whatever the environment said then
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)  # a trial runs one operation after the other
    if gpu and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_fraction(gpu, total), 0)


def shared_memory() -> GpuMemory | None:
    """Where this process stands on a GPU that it shares; None if it has a whole one, or none."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):  # type: ignore[no-untyped-call]
        return None
    fraction = torch.cuda.get_per_process_memory_fraction(0)
    if fraction >= 1:
        return None
    total = torch.cuda.get_device_properties(0).total_memory
    return GpuMemory(int(fraction * total), torch.cuda.memory_reserved(0))


def shortage_note(memory: GpuMemory | None) -> str:
    """What a trial's out-of-memory failure may come from on a GPU that it shares; '' on one of its own."""
    if memory is None:
        return ""
    return (
        f"; its GPU is shared: the trial held {memory.held / GIB:.1f} of the {memory.allowed / GIB:.1f} GiB that it "
        "may take. Near that it needs a larger `resources.gpu`; far below, a neighbour had taken the memory, and "
        "`flatsweep rerun` may do"
    )
