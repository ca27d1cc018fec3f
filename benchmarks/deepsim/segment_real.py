"""How well the shipped 3-D extractor segments real brains that it never saw (skull-stripped T1, and simulated T2).

    python benchmarks/deepsim/segment_real.py --pairs bench-work/pairs

The pairs are those of benchmarks/registration/pairs.py; their 134 manual labels are brought to the 15 classes of the network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from imagingai.networks import pad_to_multiple
from imagingai.synthesis.appearance import normalize
from imagingai.volume import load
from imagingai.weights import load_weights

NEUROMORPHOMETRICS = {  # class of the network: labels of the protocol
    "csf": (46,),
    "cerebral cortex": tuple(range(100, 208)),
    "cerebral white matter": (44, 45),
    "lateral ventricle": (49, 50, 51, 52),
    "third and fourth ventricle": (4, 11),
    "thalamus": (59, 60),
    "caudate and accumbens": (36, 37, 23, 30),
    "putamen": (57, 58),
    "pallidum": (55, 56),
    "hippocampus": (47, 48),
    "amygdala": (31, 32),
    "brainstem and ventral DC": (35, 61, 62),
    "cerebellar cortex": (38, 39, 71, 72, 73),
    "cerebellar white matter": (40, 41),
}
IGNORED = (46, 64, 69, 75, 76)  # outer CSF is stripped off; vessel, chiasm, basal forebrain have no class


def dice_of(network: torch.nn.Module, image: Path, labels: Path) -> dict[str, float]:
    """Dice of each class except outer CSF."""
    tensor, truth = load(image).tensor(), load(labels, label=True).data[0]
    with torch.no_grad():
        found = network(pad_to_multiple(normalize(tensor))).argmax(1)[0].numpy()
    found = found[tuple(map(slice, truth.shape))]
    counted, result = ~np.isin(truth, IGNORED), {}
    for number, (name, values) in enumerate(NEUROMORPHOMETRICS.items(), 1):
        if name != "csf":
            a, b = (found == number) & counted, np.isin(truth, values)
            result[name] = float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--weights", default="brain3d_seg")
    options = parser.parse_args()
    network, _ = load_weights(options.weights)
    for title, pattern in (("T1", "????-????_2mm"), ("T2-like", "*mm_2mm")):
        cases = sorted(options.pairs.glob(f"{pattern}_moving.nii.gz"))
        rows = [dice_of(network, case, case.with_name(case.name.replace("moving", "moving_labels"))) for case in cases]
        print(f"{title}, {len(rows)} scans: mean {np.mean([list(row.values()) for row in rows]):.3f}")
        for name in rows[0]:
            print(f"  {name:28}{np.mean([row[name] for row in rows]):.3f}")


if __name__ == "__main__":
    main()
