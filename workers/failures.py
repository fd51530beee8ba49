"""Why a trial failed: the classes of failure, and which of them are worth another attempt."""

import errno
from enum import StrEnum

import torch


class ErrorClass(StrEnum):
    """The class under which a failure is recorded."""

    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    BAD_DATA = "bad_data"
    CODE_ERROR = "code_error"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    WORKER_LOST = "worker_lost"


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
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or _is_cpu_allocation_failure(error):
        return ErrorClass.OUT_OF_MEMORY
    if isinstance(error, StorageError):
        return ErrorClass.STORAGE_UNAVAILABLE
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
        return ErrorClass.STORAGE_UNAVAILABLE
    return ErrorClass.CODE_ERROR


_STORAGE_ERRNOS = {errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES}


def _is_cpu_allocation_failure(error: BaseException) -> bool:
    # torch raises a plain RuntimeError when its CPU allocator gets no memory
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)
