"""Linear maps (4, 4) in RAS mm: how they are made and moved a little."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from imagingai.volume import Volume


def moves_of(kind: str, axes: np.ndarray, dimension: int, radius: float) -> np.ndarray:
    """(12, K): shift (3) and linear map (9, row by row) of the K ways to move; about 1 mm of motion each."""
    unit, pairs = axes.T[:dimension], list(itertools.combinations(axes.T[:dimension], 2))
    linear = [np.outer(b, a) - np.outer(a, b) for a, b in pairs]
    if kind == "similarity":
        linear.append(sum(np.outer(a, a) for a in unit))
    if kind == "affine":
        linear += [np.outer(a, a) for a in unit] + [np.outer(b, a) + np.outer(a, b) for a, b in pairs]
    return np.array([*(np.append(a, np.zeros(9)) for a in unit), *(np.append(np.zeros(3), m.ravel() / radius) for m in linear)]).T


def small_map(move: np.ndarray, center: np.ndarray) -> np.ndarray:
    """exp of a move (12,), about the center."""
    generator = np.zeros((4, 4))
    generator[:3, 3], generator[:3, :3] = move[:3], move[3:].reshape(3, 3)
    there = bring(np.zeros(3), center, np.eye(3))
    return there @ torch.linalg.matrix_exp(torch.from_numpy(generator)).numpy() @ np.linalg.inv(there)


def planes(fixed: Volume, moving: Volume) -> tuple[np.ndarray, np.ndarray, int]:
    """The axes to move along, the rotation that brings the plane of a slice into that of the other, the dimension."""
    if fixed.ndim == 3:
        return np.eye(3), np.eye(3), 3
    axes, normal = np.linalg.qr(fixed.direction)[0], np.linalg.qr(moving.direction)[0][:, 2]
    normal = normal if normal @ axes[:, 2] >= 0 else -normal
    across, cosine = np.cross(axes[:, 2], normal), np.clip(axes[:, 2] @ normal, -1, 1)
    length = np.linalg.norm(across)
    return axes, rotation(across / length * np.arccos(cosine)) if length > 1e-9 else np.eye(3), 2


def rotation(vector: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) about a vector by its length in radians (Rodrigues)."""
    angle = np.linalg.norm(vector)
    cross = np.cross(np.eye(3), -vector / max(angle, 1e-12))
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def bring(point: np.ndarray, target: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """(4, 4): rotate about a point and bring it to the target."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, target - turn @ point
    return matrix


def without_scales(matrix: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The matrix without its scales and shears; the point keeps its place."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    return bring(point, apply(matrix, point), left @ right)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
