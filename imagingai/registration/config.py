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
    alignment_similarity: str = option("mi", "What the linear stage compares: mutual information works for any two modalities.", choices=("mi", "ncc"), advanced=True)
    # --- deformation (deformable.py)
    deformation: str = option("displacement", "Deformable stage: a displacement field, a stationary velocity field (exactly invertible), or none.", choices=("displacement", "velocity", "none"))
    similarity: str = option("ncc", "Image similarity to optimize.", choices=SIMILARITIES, combine=True)
    # --- run
    device: str = option("auto", "Where to compute; auto takes a CUDA GPU if there is one.", choices=("auto", "cpu", "cuda"))
    threads: int = option(0, "CPU threads; 0 uses all cores.", limits=(0, 256), advanced=True)
    seed: int = option(0, "Seed of everything random.", limits=(0, 2**31 - 1), advanced=True)

    def __post_init__(self) -> None:
        check(self)


PRESETS: dict[str, dict] = {"fast": {}, "default": {}, "smooth": {}, "accurate": {}}
