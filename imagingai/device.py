"""Where to compute."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from imagingai.errors import InputError


def choose_device(name: str = "auto") -> torch.device:
    """The torch device for "auto", "cpu" or "cuda"; auto takes a CUDA GPU if torch sees one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device cuda: torch {torch.__version__} sees no CUDA GPU. Use --device cpu, or install a CUDA build of torch.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def use_threads(threads: int = 0) -> None:
    """Let torch and ITK compute with so many CPU threads; 0 means all that this process may use."""
    count = threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads or os.cpu_count() or 1
    torch.set_num_threads(count)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(count)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: for many small steps, on which several threads spend more time waiting than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next ones. Handing it back and forth took a third of the time of a 3-D network."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-4, 0)  # M_MMAP_MAX
