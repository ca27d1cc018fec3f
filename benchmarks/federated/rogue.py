"""A site that is not as it should be: `python rogue.py HOW ...` is `imagingai ...`, except for HOW.

nan, times, short, extra: the weights that it sends are spoiled. clock=SECONDS: its clock is so much ahead.
"""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable

import numpy as np

from imagingai.federated import packages

packages.activate()

from flwr.app import Array, ArrayRecord  # noqa: E402

from imagingai.federated import messages  # noqa: E402

Flat = np.ndarray
LIES: dict[str, Callable[[Flat], dict[str, Flat]]] = {
    "nan": lambda flat: {messages.PACKED: np.where(np.arange(len(flat)) == 7, np.float32("nan"), flat)},
    "times": lambda flat: {messages.PACKED: -20 * flat},
    "short": lambda flat: {messages.PACKED: flat[:-1]},
    "extra": lambda flat: {messages.PACKED: flat, "payload": flat},
}


def lie(how: str) -> None:
    """Spoil what is packed."""
    honest = messages.pack
    messages.pack = lambda weights, exchange="float32": ArrayRecord(
        {name: Array(values.astype(exchange)) for name, values in LIES[how](honest(weights, exchange)[messages.PACKED].numpy()).items()}
    )


def set_clock(ahead: float) -> None:
    """What Python says of the time; that of the system stays (a tool such as faketime breaks time.sleep of Python 3.11)."""
    right, whole = time.time, datetime.datetime

    class Wrong(whole):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return whole.now(tz) + datetime.timedelta(seconds=ahead)

    time.time, datetime.datetime = lambda: right() + ahead, Wrong


if __name__ == "__main__":
    how = sys.argv.pop(1)
    if how.startswith("clock="):
        set_clock(float(how.removeprefix("clock=")))
    else:
        lie(how)
    from imagingai.__main__ import main  # after the clock is set

    sys.exit(main(sys.argv[1:]))
