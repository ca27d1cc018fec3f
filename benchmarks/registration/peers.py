"""The methods of the bench: each is a function (fixed path, moving path, threads) -> displacement.

A displacement is an array (X, Y, Z, 3) on the fixed voxel grid, in voxels of the moving image:
moving voxel = fixed voxel + displacement. Every peer runs as its authors document it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial

import nibabel as nib
import numpy as np

Peer = Callable[[str, str, int], np.ndarray]


def voxel_grid(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij"), -1)


def lps_to_voxels(displacement: np.ndarray, fixed: str, moving: str) -> np.ndarray:
    """From an ITK displacement (X, Y, Z, 3) in LPS mm to voxels of the moving image."""
    lps = np.diag([-1, -1, 1, 1.0])
    return mm_to_voxels(displacement, lps @ nib.load(fixed).affine, lps @ nib.load(moving).affine)


def mm_to_voxels(displacement: np.ndarray, fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """A displacement (X, Y, Z, 3) in mm as one in voxels; fixed, moving: the affines of the images."""
    total = np.linalg.inv(moving) @ fixed
    to_moving = np.linalg.inv(moving)[:3, :3].astype(np.float32)
    change = (total[:3, :3] - np.eye(3)).astype(np.float32)
    voxels = voxel_grid(displacement.shape[:3])
    return displacement @ to_moving.T + voxels @ change.T + total[:3, 3].astype(np.float32)


def read_itk(path: str, fixed: str, moving: str) -> np.ndarray:
    import SimpleITK as sitk

    return lps_to_voxels(sitk.GetArrayFromImage(sitk.ReadImage(path)).transpose(2, 1, 0, 3), fixed, moving)


def identity(fixed: str, moving: str, threads: int) -> np.ndarray:
    return np.zeros((*nib.load(fixed).shape, 3), np.float32)


def imagingai(fixed: str, moving: str, threads: int, preset: str = "default", **settings) -> np.ndarray:
    """Ours, as a user of the library runs it."""
    import torch

    from imagingai.registration import PRESETS, RegistrationConfig, register
    from imagingai.transform import to_displacement
    from imagingai.volume import load

    torch.set_num_threads(threads)
    fixed_image, moving_image = load(fixed), load(moving)
    config = RegistrationConfig(**{"alignment": "none", "device": "cpu", **PRESETS[preset], **settings})
    result = register(fixed_image, moving_image, config)
    displacement = to_displacement(result.transform, fixed_image).data.transpose(1, 2, 3, 0)
    return mm_to_voxels(displacement, fixed_image.affine, moving_image.affine)


def _ants(fixed: str, moving: str, threads: int, kind: str = "SyNOnly", aligned: bool = True, **settings) -> np.ndarray:
    import ants

    a, b, folder = ants.image_read(fixed), ants.image_read(moving), tempfile.mkdtemp()
    if aligned:
        start = ants.new_ants_transform(dimension=3, transform_type="AffineTransform", parameters=[*np.eye(3).ravel(), 0, 0, 0])
        ants.write_transform(start, folder + "/start.mat")
        settings["initial_transform"] = folder + "/start.mat"
    found = ants.registration(a, b, kind, outprefix=folder + "/", random_seed=1, **settings)
    total = ants.apply_transforms(a, b, found["fwdtransforms"], compose=folder + "/total")
    return read_itk(total, fixed, moving)


def greedy(fixed: str, moving: str, threads: int, options: str = "-m WNCC 2x2x2 -n 100x50x10") -> np.ndarray:
    from picsl_greedy import Greedy3D

    folder = tempfile.mkdtemp()
    Greedy3D().execute(f"-d 3 -threads {threads} -i {fixed} {moving} -o {folder}/warp.nii.gz {options}")
    return read_itk(folder + "/warp.nii.gz", fixed, moving)


def greedy_affine(fixed: str, moving: str, threads: int) -> np.ndarray:
    from picsl_greedy import Greedy3D

    matrix = tempfile.mkdtemp() + "/affine.mat"
    search = "-m NMI -ia-image-centers -search 200 30 20 -n 100x50x10"
    Greedy3D().execute(f"-d 3 -threads {threads} -a -i {fixed} {moving} -o {matrix} {search}")
    a, b = nib.load(fixed), nib.load(moving)
    total = np.linalg.inv(b.affine) @ np.loadtxt(matrix) @ a.affine
    voxels = voxel_grid(a.shape)
    return voxels @ total[:3, :3].T + total[:3, 3] - voxels


def dipy(fixed: str, moving: str, threads: int) -> np.ndarray:
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric

    a, b = nib.load(fixed), nib.load(moving)
    syn = SymmetricDiffeomorphicRegistration(CCMetric(3, sigma_diff=2.0, radius=3), level_iters=[100, 50, 15])
    mapping = syn.optimize(a.get_fdata(), b.get_fdata(), a.affine, b.affine)
    voxels = voxel_grid(b.shape).astype(np.float64)
    warped = np.stack([mapping.transform(voxels[..., axis] + 1) for axis in range(3)], -1)
    outside = (warped == 0).all(-1)
    warped -= 1
    warped[outside] = voxels[outside]
    return warped - voxels


def convexadam(fixed: str, moving: str, threads: int) -> np.ndarray:
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    torch.set_num_threads(threads)
    a, b = (torch.from_numpy(nib.load(path).get_fdata()).float() for path in (fixed, moving))
    return convex_adam_pt(a, b, device=torch.device("cpu"), dtype=torch.float32)


def elastix(fixed: str, moving: str, threads: int) -> np.ndarray:
    """B-spline, 8 mm, mutual information (the stock map with a bending term crashes in itk-elastix 0.25.4)."""
    import itk

    a, b, parameters = itk.imread(fixed, itk.F), itk.imread(moving, itk.F), itk.ParameterObject.New()
    table = parameters.GetDefaultParameterMap("bspline", 4, 8.0)
    table["MaximumNumberOfIterations"] = ["500"]
    table["Registration"], table["Metric"] = ["MultiResolutionRegistration"], ["AdvancedMattesMutualInformation"]
    parameters.AddParameterMap(table)
    _, found = itk.elastix_registration_method(a, b, parameter_object=parameters, number_of_threads=threads, log_to_console=False)
    return lps_to_voxels(itk.array_from_image(itk.transformix_deformation_field(b, found)).transpose(2, 1, 0, 3), fixed, moving)


PEERS: dict[str, Peer] = {
    "affine only": identity,
    "imagingai fast": partial(imagingai, preset="fast"),
    "imagingai smooth": partial(imagingai, preset="smooth"),
    "imagingai default": imagingai,
    "imagingai accurate": partial(imagingai, preset="accurate"),
    "imagingai affine": partial(imagingai, alignment="affine", deformation="none"),
    "Greedy": greedy,
    "Greedy affine": greedy_affine,
    "ANTs SyN MI": _ants,
    "ANTs SyN CC": partial(_ants, syn_metric="CC", syn_sampling=2, reg_iterations=(100, 70, 50, 20)),
    "ANTs Affine": partial(_ants, kind="Affine", aligned=False),
    "DIPY SyN CC": dipy,
    "elastix MI": elastix,
    "ConvexAdam": convexadam,
}
