"""Memory that is freed and wanted again at once, as in every step of an attack or of training."""

import contextlib
import ctypes
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of glibc's `mallopt`."""
KEEPING = {TRIM_THRESHOLD: -1, MMAP_MAX: 0}
USUAL = {TRIM_THRESHOLD: 64 * 2**20, MMAP_THRESHOLD: 32 * 2**20, MMAP_MAX: 65536}
"""The largest thresholds that glibc takes by itself once large blocks have been freed."""


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Memory that is freed inside stays with the process, which never needs more at once; the system has it afterwards.

    Otherwise glibc returns the pages of large tensors in every step and gets them back filled with zeros, page by page:
    a third of an attack's time on small networks (docs/benchmarks.md). With another C library nothing happens.
    """
    _set(KEEPING)
    try:
        yield
    finally:
        _set(USUAL)
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)


def _set(parameters: dict[int, int]) -> None:
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in parameters.items():
            mallopt(parameter, value)
