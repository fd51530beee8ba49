"""Processes below one of ours, and where they listen, read from /proc. Linux only."""

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
LISTENING = "0A"
"""In the kernel's tables of sockets (include/net/tcp_states.h)."""


@dataclass(frozen=True)
class Listener:
    """A socket that waits for calls."""

    address: str
    port: int
    command: str

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can call it."""
        parsed = ipaddress.ip_address(self.address)
        mapped = getattr(parsed, "ipv4_mapped", None)
        return (mapped or parsed).is_loopback


def family(process_id: int) -> list[int]:
    """The process and all below it that are alive."""
    children: dict[int, list[int]] = {}
    for place in PROC.glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(place.name))
    found, left = [], [process_id]
    while left:
        found.append(left.pop())
        left += children.get(found[-1], [])
    return found


def command(process_id: int) -> str:
    """Its command line, as everyone on the machine can read it."""
    return (PROC / str(process_id) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def listeners(process_id: int) -> list[Listener]:
    """Where the process and all below it listen."""
    open_sockets = dict(_listening())
    found = set()
    for one in family(process_id):
        for inode in _sockets(one):
            if inode in open_sockets:
                found.add(Listener(*open_sockets[inode], command(one)[:120]))
    return sorted(found, key=lambda each: each.port)


def _listening() -> Iterator[tuple[str, tuple[str, int]]]:
    for name, kind in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in (PROC / "net" / name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING:
                place, port = fields[1].split(":")
                raw = bytes.fromhex(place)  # four bytes at a time, in the machine's order
                raw = b"".join(raw[low : low + 4][::-1] for low in range(0, len(raw), 4))
                yield fields[9], (socket.inet_ntop(kind, raw), int(port, 16))


def _sockets(process_id: int) -> Iterator[str]:
    try:
        handles = list((PROC / str(process_id) / "fd").iterdir())
    except OSError:
        return
    for handle in handles:
        try:
            target = str(handle.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]
