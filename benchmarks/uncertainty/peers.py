"""Our measures beside the functions of torch-uncertainty, MONAI and pingouin that compute the same: a table of the differences.

    pip install monai pingouin seaborn torchmetrics && pip install --no-deps torch-uncertainty
    python benchmarks/uncertainty/peers.py

Of torch-uncertainty only the metrics are imported, which need neither torchvision nor lightning. No peer has the
generalized energy distance; it is put together from MONAI's IoU of every pair. Exit 1 if a difference is above 1e-5.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from imagingai.uncertainty import calibration, measures

LIMIT = 1e-5
SAMPLES, CLASSES, GRID = 6, 4, (20, 18, 12)


def metrics_of_torch_uncertainty():
    """Its metrics of classification, without the __init__ of the packages above, which import the training loops."""
    folder = Path(importlib.util.find_spec("torch_uncertainty").origin).parent
    for name in ("torch_uncertainty", "torch_uncertainty.metrics"):
        package = sys.modules[name] = types.ModuleType(name)
        package.__path__ = [str(folder.parent.joinpath(*name.split(".")))]
    return importlib.import_module("torch_uncertainty.metrics.classification")


def probabilities(random: np.random.Generator) -> np.ndarray:
    """(S, K, X, Y, Z): smooth shapes that differ from sample to sample."""
    from scipy.ndimage import gaussian_filter
    from scipy.special import softmax

    common = gaussian_filter(random.normal(size=(CLASSES, *GRID)), (0, 3, 3, 3))
    own = gaussian_filter(random.normal(size=(SAMPLES, CLASSES, *GRID)), (0, 0, 2, 2, 2))
    return softmax(60 * common + 25 * own, axis=1)


def one_hot(labels: np.ndarray) -> torch.Tensor:
    """(S, K, X, Y, Z) of class indices (S, X, Y, Z)."""
    return torch.from_numpy(np.stack([labels == k for k in range(CLASSES)], 1)).float()


def monai_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """1 - IoU, mean over the structures, of one-hot (K, X, Y, Z)."""
    from monai.metrics import compute_iou

    return float(1 - compute_iou(a[None], b[None], include_background=False, ignore_empty=False).mean())


def compare(random: np.random.Generator) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """What, whose function, ours, theirs."""
    import pandas
    import pingouin
    from monai.metrics import calibration_binning, compute_dice

    theirs = metrics_of_torch_uncertainty()
    samples = probabilities(random)
    flat = torch.from_numpy(samples.reshape(SAMPLES, CLASSES, -1)).permute(2, 0, 1)  # voxels, samples, classes

    def bits(metric, values: torch.Tensor) -> np.ndarray:
        metric.update(values)
        return metric.compute().numpy() / np.log(2)

    mean = samples.mean(0)
    yield "entropy", "torch-uncertainty", measures.entropy(mean).ravel(), bits(theirs.Entropy(reduction=None), flat.mean(1))
    yield "expected entropy", "torch-uncertainty", measures.expected_entropy(samples).ravel(), bits(theirs.Entropy(reduction=None), flat)
    information = bits(theirs.MutualInformation(reduction=None), flat)
    yield "mutual information", "torch-uncertainty", measures.mutual_information(samples).ravel(), information

    truth = np.argmax(mean + random.gumbel(0, 0.4, mean.shape), 0)
    table = calibration.reliability(mean.max(0).ravel(), (mean.argmax(0) == truth).ravel())
    metric = theirs.CalibrationError(task="multiclass", num_classes=CLASSES, num_bins=15)
    metric.update(flat.mean(1), torch.from_numpy(truth.ravel()))
    yield "ECE", "torch-uncertainty", calibration.ece(table), metric.compute().numpy()
    confidence, correct = (torch.from_numpy(x.ravel())[None, None].float() for x in (mean.max(0), mean.argmax(0) == truth))
    binned = calibration_binning(confidence, correct, num_bins=15, right=True)
    for name, values in zip(("confidence", "accuracy", "count"), binned, strict=True):
        yield f"reliability, {name}", "MONAI", np.array([row[name] for row in table]), np.nan_to_num(values.numpy().ravel())

    drawn = samples.argmax(1)
    hot = one_hot(drawn)
    dice = torch.stack([compute_dice(hot, hot[k : k + 1].expand_as(hot), include_background=False) for k in range(SAMPLES)], 2)
    yield "Dice of all pairs", "MONAI", measures.pairwise_dice(drawn, drawn, CLASSES), dice.permute(1, 0, 2).numpy()
    apart = np.array([[monai_distance(a, b) for b in hot] for a in hot])
    yield "1 - IoU of all pairs", "MONAI", measures.iou_distances(drawn, drawn, CLASSES), apart
    expected = 2 * apart[:2, 2:].mean() - apart[:2, :2].mean() - apart[2:, 2:].mean()
    yield "GED", "MONAI (IoU of pairs)", measures.ged(drawn[:2], drawn[2:], CLASSES), expected

    subject = np.repeat(np.arange(12), 30)
    x = random.normal(size=360) + subject
    frame = pandas.DataFrame({"x": x, "y": 0.3 * x - subject + random.normal(size=360), "subject": subject})
    found = measures.repeated_measures_correlation(frame.x.to_numpy(), frame.y.to_numpy(), subject)
    row = pingouin.rm_corr(frame, "x", "y", "subject").iloc[0]
    yield "repeated-measures r, dof, p", "pingouin", np.array(found), np.array([row["r"], row["dof"], row["pval"]], float)


def main() -> int:
    warnings.simplefilter("ignore")
    print(f"| Measure | Peer | Values | Ours, mean | Peer, mean | Ratio | Largest difference |\n|{'---|' * 7}")
    worst = 0.0
    for name, peer, ours, theirs in compare(np.random.default_rng(0)):
        ours, theirs = np.atleast_1d(ours), np.atleast_1d(theirs)
        difference = float(np.abs(ours - theirs).max())
        worst = max(worst, difference)
        ratio = ours.mean() / theirs.mean()
        print(f"| {name} | {peer} | {ours.size} | {ours.mean():.6f} | {theirs.mean():.6f} | {ratio:.7f} | {difference:.1e} |")
    print(f"\nLargest difference {worst:.1e}, limit {LIMIT:g}: {'equal' if worst <= LIMIT else 'NOT EQUAL'}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
