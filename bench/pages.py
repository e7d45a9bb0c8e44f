"""Keeps freed memory in a benchmark's process, to time kernels without the page faults of their results."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_pages():
    """Asks glibc to serve large blocks from a heap that it never gives back; returns whether it took that.

    For a benchmark only: the heap can fragment, and then it grows.
    """
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
