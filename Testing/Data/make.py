"""Make the files of this folder again from their originals (see README.md for sources and licenses).

python Testing/Data/make.py --colin FOLDER --mni FILE --meshnet FOLDER --hippocampus FOLDER [--output FOLDER]

--colin        folder with ch2bet.nii.gz (and aal.nii.gz, only read to print how well the labels agree with it)
--mni          mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz
--meshnet      folder with model.bin and colormap.json of brainchop's model18cls
--hippocampus  folder with images/ and labels/ of the Medical Segmentation Decathlon, task 4
About 3 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

MARGIN = 16  # mm of background around the brain that the segmenter sees
LATERAL_VENTRICLE, INFERIOR_HORN = 3, 4  # joined: the horn is too thin for 2 mm
AAL = {"Thalamus": (77, 78), "Caudate": (71, 72), "Putamen": (73, 74), "Pallidum": (75, 76), "Hippocampus": (37, 38)}


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Data (X, Y, Z) and affine of an image, axes turned to RAS."""
    image = nib.as_closest_canonical(nib.load(path))
    return np.asanyarray(image.dataobj), image.affine


def write(path: Path, data: np.ndarray, dtype: type, affine: np.ndarray) -> None:
    """Write NIfTI in mm."""
    image = nib.Nifti1Image(data.astype(dtype), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def frame(data: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last index + 1 of the foreground with a margin of voxels, of even size."""
    index = np.argwhere(data > 0)
    low, high = index.min(0) - margin, index.max(0) + 1 + margin
    return low, high + (high - low) % 2


def cut(data: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """data[low:high], with zeros where the image ends."""
    before, after = np.maximum(-low, 0), np.maximum(high - data.shape, 0)
    padded = np.pad(data, list(zip(before, after, strict=True)))
    return padded[tuple(slice(a, b) for a, b in zip(low + before, high + before, strict=True))]


def segment(data: np.ndarray, weights: Path) -> np.ndarray:
    """MeshNet: nine dilated 3x3x3 convolutions with ELU, then 1x1x1; it expects axes left, inferior, anterior at 1 mm."""
    numbers, at = np.fromfile(weights, "<f4"), 0
    x = torch.from_numpy(np.ascontiguousarray(np.flip(data.transpose(0, 2, 1), (0, 1)), np.float32) / data.max())[None, None]
    sizes = [(1, 21, 1), *[(21, 21, dilation) for dilation in (2, 4, 8, 16, 8, 4, 2, 1)], (21, 18, 0)]
    with torch.inference_mode():
        for inputs, outputs, dilation in sizes:
            width = 3 if dilation else 1
            count = width**3 * inputs * outputs
            kernel = torch.tensor(numbers[at : at + count].reshape(width, width, width, inputs, outputs)).permute(4, 3, 0, 1, 2)
            bias = torch.tensor(numbers[at + count : at + count + outputs])
            x = F.conv3d(x, kernel.contiguous(), bias, padding=dilation, dilation=max(dilation, 1))
            x = F.elu(x) if dilation else x
            at += count + outputs
    labels = np.flip(x[0].argmax(0).numpy(), (0, 1)).transpose(0, 2, 1).astype(np.uint8)
    labels[labels == INFERIOR_HORN] = LATERAL_VENTRICLE
    return labels


def halve(data: np.ndarray) -> np.ndarray:
    """Mean of each block of 2x2x2 voxels."""
    x, y, z = (size // 2 for size in data.shape)
    return data.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5))


def halve_labels(labels: np.ndarray) -> np.ndarray:
    """The most frequent label of each block of 2x2x2 voxels."""
    return np.argmax([halve(labels == value) for value in range(labels.max() + 1)], axis=0)


def brain(name: str, original: Path, weights: Path, output: Path) -> np.ndarray:
    """Label a brain at 1 mm; write both at 2 mm, and the axial slice at z = 10 mm at 1 mm as PNG. Return the labels."""
    whole, affine = read(original)
    low, high = frame(whole, MARGIN)
    data = cut(whole, low, high)
    labels = segment(data, weights)
    narrow = (slice(6, -6),) * 3  # registration needs only 4 mm of background
    coarse = affine @ np.array([[2, 0, 0, 12.5], [0, 2, 0, 12.5], [0, 0, 2, 12.5], [0, 0, 0, 1]])
    coarse[:3, 3] += affine[:3, :3] @ low
    write(output / f"brain_{name}.nii.gz", halve(data)[narrow].round(), np.uint8, coarse)
    write(output / f"brain_{name}_labels.nii.gz", halve_labels(labels)[narrow], np.uint8, coarse)
    level = round((10 - affine[2, 3]) / affine[2, 2]) - low[2]
    for kind, volume in (("", data), ("_labels", labels)):
        picture = np.ascontiguousarray(volume[::-1, ::-1, level].T)  # patient's right on the left, front on top
        sitk.WriteImage(sitk.GetImageFromArray(picture.astype(np.uint8)), str(output / f"slice_{name}{kind}.png"), useCompression=True)
    return labels


def names(colormap: Path, output: Path) -> list[str]:
    """Write value,name of the structures beside each label file; return the names."""
    labels = json.loads(colormap.read_text())["labels"]
    rows = [f"{value},{name.replace('-', ' ')}" for value, name in enumerate(labels) if value not in (0, INFERIOR_HORN)]
    for stem in ("brain_fixed", "brain_moving", "slice_fixed", "slice_moving"):
        (output / f"{stem}_labels.csv").write_text("\n".join(["value,name", *rows]) + "\n")
    for stem in ("hippocampus_fixed", "hippocampus_moving"):
        (output / f"{stem}_labels.csv").write_text("value,name\n1,Anterior hippocampus\n2,Posterior hippocampus\n")
    return labels


def agreement(folder: Path, labels: np.ndarray, values: list[str]) -> None:
    """Print the Dice of the labels with the AAL atlas of the same brain."""
    aal = cut(read(folder / "aal.nii.gz")[0], *frame(read(folder / "ch2bet.nii.gz")[0], MARGIN))
    for name, regions in AAL.items():
        a, b = np.isin(aal, regions), labels == values.index(name)
        print(f"{name:12} Dice with AAL {2 * (a & b).sum() / (a.sum() + b.sum()):.2f}")


def hippocampus(name: str, case: str, source: Path, output: Path) -> None:
    """One case with its manual labels: float intensities become int16, everything else stays."""
    for kind, folder, dtype in (("", "images", np.int16), ("_labels", "labels", np.uint8)):
        data, affine = read(source / folder / f"{case}.nii.gz")
        write(output / f"hippocampus_{name}{kind}.nii.gz", data.round(), dtype, affine)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--colin", "--mni", "--meshnet", "--hippocampus"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    structures = names(given.meshnet / "colormap.json", given.output)
    hippocampus("fixed", "hippocampus_003", given.hippocampus, given.output)
    hippocampus("moving", "hippocampus_004", given.hippocampus, given.output)
    brain("fixed", given.mni, given.meshnet / "model.bin", given.output)
    agreement(given.colin, brain("moving", given.colin / "ch2bet.nii.gz", given.meshnet / "model.bin", given.output), structures)
