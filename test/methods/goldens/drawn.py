"""Numbers that Python and TypeScript draw alike, for golden arrays whose inputs then need no file (drawn-numbers.ts has the same). In [-1, 1), exact in float32."""

import numpy as np


def drawn(seed: int, *shape: int) -> np.ndarray:
    """Number i of a stream is a hash of seed and i (the finaliser of MurmurHash3), its upper 16 bits."""
    x = (np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(seed * 1000003)) & np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    x = x ^ (x >> np.uint64(16))
    return ((x >> np.uint64(16)).astype(np.float64) / 32768 - 1).astype(np.float32).reshape(shape)
