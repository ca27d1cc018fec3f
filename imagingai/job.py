"""A job is a folder: `job.json` in, `result.json` out, a file named `cancel` means please stop."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[float, str], None]  # (fraction done 0..1, what is happening); raises Cancelled to stop


def ignore(fraction: float, text: str) -> None:
    """The report of those who do not want one."""
