"""Cost of one gradient with respect to the moved image: the closed forms here against automatic differentiation in MONAI.

    python benchmarks/registration/similarity_speed.py --shape 80 112 96 --threads 1

CPU seconds of the process, the least of some repeats; compare the ratios, not the seconds. The definitions differ a
little (MONAI: nmi is a plain mutual information with a Gaussian window), the work is alike.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would be counted as work

import torch
from monai.losses import GlobalMutualInformationLoss, LocalNormalizedCrossCorrelationLoss
from torch import Tensor

from imagingai.registration.similarity import SIMILARITIES, Settings


def cpu_seconds(function: Callable[[], object], repeats: int) -> float:
    """The least of some repeats, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return min(times)


def backward(loss: torch.nn.Module, fixed: Tensor, moved: Tensor) -> Tensor:
    """What automatic differentiation does for the same gradient."""
    moved = moved.clone().requires_grad_()
    return torch.autograd.grad(loss(moved, fixed), moved)[0]


def rows(fixed: Tensor, moved: Tensor, repeats: int) -> list[tuple[str, float, float]]:
    """(name, seconds here, seconds in MONAI)."""
    dimensions, found = fixed.ndim - 2, []
    cases = [
        (f"ncc, window {2 * r + 1}", "ncc", Settings(radius=r), LocalNormalizedCrossCorrelationLoss(dimensions, kernel_size=2 * r + 1))
        for r in (2, 4)
    ]
    cases.append(("nmi, 32 bins", "nmi", Settings(bins=32), GlobalMutualInformationLoss("gaussian", num_bins=32)))
    for title, name, settings, loss in cases:
        term = SIMILARITIES[name](fixed, moved, settings)
        with torch.no_grad():
            ours = cpu_seconds(lambda: term.gradient(moved), repeats)  # noqa: B023
        theirs = cpu_seconds(lambda: backward(loss, fixed, moved), repeats)  # noqa: B023
        found.append((title, ours, theirs))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", default=[80, 112, 96])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    fixed, moved = torch.rand(2, 1, 1, *args.shape, generator=torch.Generator().manual_seed(0))
    print(f"| gradient at {'x'.join(map(str, args.shape))} | here, CPU ms | MONAI autograd, CPU ms | ratio |\n|---|---|---|---|")
    for title, ours, theirs in rows(fixed, moved, args.repeats):
        print(f"| {title} | {1e3 * ours:.0f} | {1e3 * theirs:.0f} | {theirs / ours:.1f} |")


if __name__ == "__main__":
    main()
