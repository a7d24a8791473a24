"""How this process's allocator treats freed memory: what a batch has used is kept for the next one.

A worker takes and frees buffers of a megabyte and more for every block it reads, decodes or writes. By default glibc hands each back to
the kernel, which clears its pages when they are asked for again. Only the C library's heap is set here; Arrow's buffers are its own pool's.
On another C library, or where the environment sets glibc's tunables, nothing is changed.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_THRESHOLD = -3
"""The names of mallopt(3), as glibc's malloc.h numbers them."""

LARGEST_KEPT = 32 << 20
"""Bytes of the largest allocation that comes from the heap; glibc takes no more than this (HEAP_MAX_SIZE / 2, malloc/arena.c)."""

KEPT = 128 << 20
"""Free bytes at the top of a heap from which on they go back to the kernel."""

STEP = 16 << 20
"""Bytes by which a heap grows beyond what was asked for. Not resident before they are used."""


@lru_cache(maxsize=1)
def keep_freed() -> bool:
    """Set it, once a process; whether the C library took it."""
    if "GLIBC_TUNABLES" in os.environ or not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = ((M_MMAP_THRESHOLD, LARGEST_KEPT), (M_TRIM_THRESHOLD, KEPT), (M_TOP_PAD, STEP))
    # Each is set, whatever became of the one before.
    return 0 not in [mallopt(name, value) for name, value in settings]


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False
