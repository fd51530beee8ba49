"""Why a trial failed: the classes of failure, and which of them are worth another attempt. Imports no torch."""

import errno
import sys
from enum import StrEnum


class ErrorClass(StrEnum):
    """The class under which a failure is recorded."""

    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    BAD_DATA = "bad_data"
    CODE_ERROR = "code_error"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    WORKER_LOST = "worker_lost"
    CANCELLED = "cancelled"
    """By its user."""

    @property
    def passing(self) -> bool:
        """Whether the surroundings failed, not the trial: another attempt may well succeed."""
        return self in {ErrorClass.STORAGE_UNAVAILABLE, ErrorClass.WORKER_LOST}


class DivergedError(Exception):
    """Training left the range of useful numbers."""


class DataError(Exception):
    """The data cannot be used as they are."""


class StorageError(Exception):
    """The trial's folder cannot be read or written."""


def classify(error: BaseException) -> ErrorClass:
    """The class of an exception that ended a trial."""
    if isinstance(error, DivergedError):
        return ErrorClass.DIVERGED
    if isinstance(error, DataError):
        return ErrorClass.BAD_DATA
    if isinstance(error, MemoryError) or _is_torch_out_of_memory(error):
        return ErrorClass.OUT_OF_MEMORY
    if isinstance(error, StorageError):
        return ErrorClass.STORAGE_UNAVAILABLE
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
        return ErrorClass.STORAGE_UNAVAILABLE
    return ErrorClass.CODE_ERROR


_STORAGE_ERRNOS = {errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES}


def _is_torch_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY_TEXTS)


_OUT_OF_MEMORY_TEXTS = (
    "not enough memory",  # torch's CPU allocator
    "CUDA error: out of memory",  # a context that does not fit beside those of a GPU's other processes
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What a plain RuntimeError of torch says then."""
