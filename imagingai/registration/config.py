"""Settings of a registration. Standard library only, so that help and panels need no torch."""

from __future__ import annotations

from dataclasses import dataclass

from imagingai.options import check, option

SIMILARITIES = ("mse", "ncc", "nmi", "mind", "ncc_sup", "deepsim_ae", "deepsim_seg")


@dataclass(frozen=True)
class RegistrationConfig:
    """How to register. Every field is a command-line option of `imagingai register`."""

    # --- alignment (affine.py)
    alignment: str = option("affine", "Linear stage that runs first.", choices=("none", "center", "rigid", "affine"))
    alignment_similarity: str = option(
        "mi", "What the linear stage compares: mutual information works for any two modalities.", choices=("mi", "ncc"), advanced=True
    )
    alignment_range: float = option(
        60.0, "Largest rotation that the search tries, about any axis.", limits=(0.0, 180.0), unit="degrees", advanced=True
    )
    # --- deformation (deformable.py)
    deformation: str = option(
        "displacement",
        "Deformable stage: a displacement field, a stationary velocity field (exactly invertible), or none.",
        choices=("displacement", "velocity", "none"),
    )
    similarity: str = option("ncc", "Image similarity to optimize.", choices=SIMILARITIES, combine=True)
    features: str = option("", "Feature extractor of deepsim: a file of weights (.safetensors); without it the shipped one that fits.")
    deepsim_levels: tuple[int, ...] = option(
        (0,),
        "Features that deepsim compares: 0 is the end of the decoder, 1 2 3 are all levels of the encoder, as in the paper.",
        limits=(0, 9),
        advanced=True,
    )
    deepsim_order: str = option(
        "extract-warp",
        "Warp the image and extract features each time, or extract once and warp the features (much faster).",
        choices=("extract-warp", "warp-extract"),
        advanced=True,
    )
    iterations: tuple[int, ...] = option(
        (60, 40, 12, 7), "Iterations from the coarsest to the finest grid; further grids take the last number.", limits=(0, 10000)
    )
    step: float = option(
        1.25, "Longest step of an iteration; longer follows more detail and is rougher.", limits=(0.01, 2.0), unit="voxels"
    )
    smoothing: float = option(
        0.8, "Regularization of the field on the finest grid (sigma of one iteration).", limits=(0.0, 10.0), unit="voxels"
    )
    coarse_smoothing: float = option(1.0, "The same on coarser grids.", limits=(0.0, 10.0), unit="voxels", advanced=True)
    stiffness: float = option(0.35, "Resistance to local change of volume on the finest grid.", limits=(0.0, 0.5))
    coarse_stiffness: float = option(0.2, "The same on coarser grids.", limits=(0.0, 0.5), advanced=True)
    force_smoothing: float = option(
        0.7, "Smoothing of the force on the finest grid (sigma).", limits=(0.0, 10.0), unit="voxels", advanced=True
    )
    coarse_force_smoothing: float = option(1.5, "The same on coarser grids.", limits=(0.0, 10.0), unit="voxels", advanced=True)
    regularizer: str = option("diffusion", "Energy that the smoothing lowers.", choices=("diffusion", "bending"), advanced=True)
    floor: float = option(1.5, "Forces below this multiple of the typical one make small steps.", limits=(0.0, 100.0), advanced=True)
    coherence: float = option(
        0.8, "Steps shrink when the lasting part of the force is less than this; 0 switches it off.", limits=(0.0, 1.0), advanced=True
    )
    symmetric: bool = option(False, "Let both images pull alike; needs --deformation velocity.")
    # --- grid
    spacing: float = option(
        0.0,
        "Spacing of the isotropic grid that is computed on; 0 takes it from the fixed image.",
        limits=(0.0, 100.0),
        unit="mm",
        advanced=True,
    )
    max_voxels: float = option(
        16.0,
        "Largest grid that is computed on; a larger fixed image is registered on a coarser grid.",
        limits=(0.01, 1000.0),
        unit="million voxels",
        advanced=True,
    )
    # --- run
    outputs: tuple[str, ...] = option(
        ("moved", "transform", "inverse", "jacobian", "similarity_map", "report"),
        "Files to write.",
        choices=("moved", "transform", "inverse", "displacement", "jacobian", "similarity_map", "report"),
        advanced=True,
    )
    preview: bool = option(
        False, "Write the moved image so far as preview.nrrd into the job folder while running, for a viewer.", advanced=True
    )
    device: str = option("auto", "Where to compute; auto takes a CUDA GPU if there is one.", choices=("auto", "cpu", "cuda"))
    threads: int = option(0, "CPU threads; 0 uses all cores.", limits=(0, 256), advanced=True)
    seed: int = option(0, "Seed of everything random.", limits=(0, 2**31 - 1), advanced=True)

    def __post_init__(self) -> None:
        check(self)


PRESETS: dict[str, dict] = {
    "fast": {"iterations": (40, 25, 5, 2)},
    "default": {},
    "smooth": {"smoothing": 1.2, "coarse_smoothing": 1.2},
    "accurate": {"iterations": (60, 60, 20, 10), "smoothing": 0.7, "stiffness": 0.2},
}

INTERPOLATIONS = ("linear", "nearest", "cubic")


@dataclass(frozen=True)
class ApplyConfig:
    """How to move another image with a transform."""

    interpolation: str = option("linear", "nearest for labels and masks.", choices=INTERPOLATIONS)
    fill: float = option(0.0, "Value where the moving image does not reach.", limits=(-1e9, 1e9))
    name: str = option("moved.nii.gz", "File name of the result in the job folder.", advanced=True)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class InvertConfig:
    """How to invert a transform."""

    name: str = option("inverse.h5", "File name of the result in the job folder.", advanced=True)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class EvaluateConfig:
    """How to measure a transform."""

    inverse: bool = option(True, "Also invert the transform and measure the inverse consistency.")

    def __post_init__(self) -> None:
        check(self)
