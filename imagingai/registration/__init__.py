"""Register two images: `from imagingai.registration import register`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imagingai.registration.config import PRESETS, RegistrationConfig

if TYPE_CHECKING:
    from imagingai.registration.pairwise import RegistrationResult, register

__all__ = ["PRESETS", "RegistrationConfig", "RegistrationResult", "register"]


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for, so that help and panels start without it."""
    if name in ("RegistrationResult", "register"):
        from imagingai.registration import pairwise

        return getattr(pairwise, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
