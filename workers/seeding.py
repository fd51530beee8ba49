"""Randomness as a function: every generator is seeded from what it is for, so nothing has to be saved to resume."""

import hashlib

import torch

Purpose = str | int


def seed_of(seed: int, *purpose: Purpose) -> int:
    """A 63-bit seed for one purpose, such as `seed_of(seed, "shuffle", epoch)`; unrelated for unequal arguments."""
    text = repr((seed, *purpose)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(device: torch.device, seed: int, *purpose: Purpose) -> torch.Generator:
    """A generator on `device` for one purpose."""
    return torch.Generator(device=device).manual_seed(seed_of(seed, *purpose))
