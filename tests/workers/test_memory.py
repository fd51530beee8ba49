"""Pages that the system has to give, counted by the system itself, in a process of its own."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from workers.memory import kept_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def work():
    for _ in range(20):
        a, b = torch.ones(10_000_000), torch.ones(10_000_000)
        del a, b

def counted():
    before = faults()
    work()
    return faults() - before

work()
base, usual = resident(), counted()
with kept_memory():
    work()
    kept, held = counted(), resident()
print(usual, kept, held - base, resident() - base)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_stays_inside_and_goes_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    usual, kept, held, after = map(int, done.stdout.split())
    tensors = 20 * 2 * 40_000_000
    assert usual > tensors / 2**21 / 2  # even with huge pages
    assert kept < usual / 10
    assert held > 60_000_000
    assert after < 20_000_000
