"""Give a brain model the temperature that fits real brains, which it was not trained on: the last step of the shipped model.

    python benchmarks/uncertainty/calibrate_brain.py trained/model.safetensors imagingai/uncertainty/weights/brain.safetensors

A model of synthetic images of every contrast is too unsure of a clean T1. The temperature is fitted on the two brains of Testing/Data
(labels of another network, see its README): the mean probability of 8 samples at every fifth voxel of a structure. Prints the
calibration errors.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from imagingai.device import keep_memory, use_threads
from imagingai.uncertainty.calibration import ece, fit_temperature, reliability
from imagingai.uncertainty.config import SegmentConfig
from imagingai.uncertainty.frame import prepare, to_grid
from imagingai.uncertainty.model import SegmentationModel, load_model, save_model
from imagingai.uncertainty.segment import predict
from imagingai.volume import load

DATA = Path(__file__).parents[2] / "Testing" / "Data"
CLASS_OF = {1: 3, 2: 2, 3: 4, 5: 14, 6: 13, 7: 6, 8: 7, 9: 8, 10: 9, 11: 5, 12: 5, 13: 12, 14: 10, 15: 11, 16: 7, 17: 12}  # label: class


def voxels(name: str, model: SegmentationModel) -> tuple[np.ndarray, np.ndarray]:
    """Logits (S, N, K) of the model without its temperature, and the true classes (N,)."""
    frame, seen = prepare([load(DATA / f"{name}.nii.gz")], model.description)
    logits = predict(torch.from_numpy(seen)[None], model, range(8), SegmentConfig())[0].flatten(2) * model.description.temperature
    labels = to_grid(frame, load(DATA / f"{name}_labels.nii.gz", label=True), labels=True).ravel()
    chosen = np.flatnonzero(np.isin(labels, list(CLASS_OF)))[::5]
    return logits[..., chosen].movedim(-1, 1).numpy(), np.array([CLASS_OF[value] for value in labels[chosen]])


def main() -> None:
    """Fit, print, write."""
    use_threads(1)
    keep_memory()
    model = load_model(sys.argv[1])
    parts = {name: voxels(name, model) for name in ("brain_fixed", "brain_moving")}
    logits, truth = np.concatenate([x for x, _ in parts.values()], 1), np.concatenate([y for _, y in parts.values()])
    temperature = round(fit_temperature(logits, truth), 3)
    for t in (model.description.temperature, temperature):
        for name, (x, y) in parts.items():
            mean = softmax(x / t, axis=2).mean(0)
            print(f"temperature {t:.3f}, {name}: calibration error {ece(reliability(mean.max(1), mean.argmax(1) == y)):.4f}")
    save_model(Path(sys.argv[2]), SegmentationModel(replace(model.description, temperature=temperature), model.networks))


if __name__ == "__main__":
    main()
