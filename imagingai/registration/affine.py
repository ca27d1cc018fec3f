"""Linear alignment of two images from any start: rigid or affine, 2-D or 3-D, in RAS mm.

A wide search over rotations and shifts at about 1/25 of the field of view scores every candidate at sample points
(information.py); the best are refined, first rigidly, then with scale, then affinely, at 1/25, 1/50 and 1/100, smoothed
and last sharp. The optimizer composes small linear maps, A <- A exp(sum_k t_k G_k) around the center of the samples, so a rigid step stays
rigid; t is the Fisher-scored Newton step of the mean log-likelihood ratio (the outer product of the scores stands for
its Hessian; Berndt, Hall, Hall & Hausman, Ann. Econ. Soc. Meas. 3, 1974), with a step length that adapts.

The points come from the image with the smaller foreground. Scans where both show the same (two heads, two brains) are
compared there and around it, a brain without skull and a head only inside. In doubt both ways are searched; what the
insides share picks the winner.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imagingai.device import choose_device, one_thread
from imagingai.errors import InputError
from imagingai.job import Report, ignore
from imagingai.registration.config import RegistrationConfig
from imagingai.registration.information import MEASURES, Measure
from imagingai.registration.linear import apply, bring, moves_of, planes, rotation, small_map, without_scales
from imagingai.registration.scans import Samples, Scan, draw, mean_size, prepare
from imagingai.volume import Volume

log = logging.getLogger(__name__)

SPACING = 18.0  # degrees between the rotations that are tried
OFFSETS = 14  # shifts from center of mass to center of mass that are tried with every rotation
REACH = 0.9  # the largest of them, in radii of the samples
TRIED = 1000  # sample points that score a start
STARTS = 400  # best starts among which distinct ones are chosen
SIEVE = (  # resolution, every so many samples, states kept, steps
    (0, 2, 96, 3),
    (0, 1, 40, 6),
    (1, 6, 40, 3),  # the right one may only be seen to be good at this resolution
    (1, 3, 12, 6),
    (1, 2, 3, 10),
)
FEWEST = 50  # sample points
LEAST_OVERLAP = 0.01  # part of the samples that must meet the other image
SMALLER = 0.85  # ratio of volumes below which one foreground is clearly smaller than the other
ALIKE = 0.65  # ratio of volumes of two brains, or of two heads, that is still usual
CLEAR = 0.6  # a second best state below this part of the best leaves no doubt
UNLIKE = 1.35  # ratio of the foregrounds from which on scans do not show the same
FINALISTS = 2  # states that are refined to the end
SOUND = (0.3, 3.0)  # change of volume that an affine result may make


def align(
    fixed: Volume,
    moving: Volume,
    config: RegistrationConfig = RegistrationConfig(),
    *,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    initial: np.ndarray | None = None,
    report: Report = ignore,
) -> np.ndarray:
    """The matrix A (4, 4), fixed RAS mm -> moving RAS mm, that aligns two images: moved(p) = moving(A p).

    `config.alignment` says how: "none" (identity), "center" (centers of mass), "rigid" or "affine". With `initial`
    (4, 4) there is no search: it is refined, and a rigid refinement keeps its scales. Only what the masks (> 0) select
    counts. A slice stays in its plane. Same input, same result. Raises `InputError` if the images do not meet.
    """
    start = None if initial is None else np.asarray(initial, float)
    if config.alignment == "none" or (config.alignment == "center" and start is not None):
        return np.eye(4) if start is None else start
    device, size = choose_device(config.device), min(mean_size(fixed), mean_size(moving))
    report(0.0, "Aligning: reading the images")
    one, two = prepare(fixed, fixed_mask, size, device), prepare(moving, moving_mask, size, device)
    if config.alignment == "center":
        return bring(one.center_of_mass, two.center_of_mass, np.eye(3))
    if two.volume >= SMALLER * one.volume:
        return _align(_Pair(one, two, *planes(fixed, moving), size, config), start, report)
    pair = _Pair(two, one, *planes(moving, fixed), size, config)
    return np.linalg.inv(_align(pair, None if start is None else np.linalg.inv(start), report))


@dataclass(frozen=True)
class _Pair:
    """`scan` gives the samples, `other` is what they meet. axes: (3, 3), of a slice its two and its normal; turn: (3, 3)
    rotates the plane of `scan` into that of `other`; size: of the smaller image, mm."""

    scan: Scan
    other: Scan
    axes: np.ndarray
    turn: np.ndarray
    dimension: int
    size: float
    config: RegistrationConfig

    def samples(self, level: int, interior: bool) -> Samples:
        margin = self.size / (50 if interior else 25)
        samples = draw(self.scan, self.other, level, self.size, margin=margin, interior=interior, seed=self.config.seed + level)
        if len(samples.points) < FEWEST:
            raise InputError(
                f"Only {len(samples.points)} sample points lie in the image and its mask, too few to align. Use a larger mask."
            )
        return samples


@dataclass(frozen=True)
class _State:
    """A matrix (4, 4) and the information that the samples share there, nats per sample."""

    matrix: np.ndarray
    score: float


def _align(pair: _Pair, start: np.ndarray | None, report: Report) -> np.ndarray:
    with one_thread():
        matrices = _search(pair, report) if start is None else [start]
    samples = pair.samples(0, False)
    if float(samples.met(samples.moved(matrices[0][None]))[1].mean()) < LEAST_OVERLAP:
        raise InputError("The images do not overlap where the alignment starts. Correct --initial or the masks, or leave them out.")
    report(0.6, "Aligning: refining")
    found = [_refine_finely(pair, matrix, pair.config.alignment) for matrix in matrices]
    best = int(np.argmax(_shared(pair, found, 3) * [_plausible(matrix) for matrix in found])) if len(found) > 1 else 0
    result, matrix = found[best], matrices[best]
    change = abs(np.linalg.det(result[:3, :3]) / (1.0 if start is None else np.linalg.det(start[:3, :3])))
    if pair.config.alignment == "affine" and not SOUND[0] < change < SOUND[1]:
        log.warning("The affine alignment would change the volume by a factor of %.2g; the rigid one is used.", change)
        result = _refine_finely(pair, without_scales(matrix, pair.scan.center_of_mass) if start is None else start, "rigid")
    report(1.0, "Aligned")
    return result


def _search(pair: _Pair, report: Report) -> list[np.ndarray]:
    """The best matrices of a wide search, refined at the middle resolution; with one scale unless rigid."""
    report(0.1, "Aligning: searching")
    found = [(state, False) for state in _sieved(pair, False)]
    (first, _), *others = found
    clear = not others or others[0][0].score < CLEAR * first.score
    unscaled = without_scales(first.matrix, pair.scan.center_of_mass)  # a brain may have been blown up to the size of a head
    if not clear or pair.scan.volume < ALIKE * pair.other.volume or _differ(pair, unscaled):
        report(0.35, "Aligning: searching inside")
        found += [(state, True) for state in _sieved(pair, True)]
    samples = [pair.samples(1, interior).thinned(2) for interior in (False, True)]
    matrices = [_refine(pair, samples[interior], state.matrix, _first_moves(pair.config.alignment), 12).matrix for state, interior in found]
    states = [_State(matrix, score) for matrix, score in zip(matrices, _shared(pair, matrices, 1), strict=True)]
    best, *others = _distinct(states, samples[False], FINALISTS)
    return [best.matrix, *(state.matrix for state in others if state.score > CLEAR * best.score)]


def _shared(pair: _Pair, matrices: Sequence[np.ndarray], level: int) -> np.ndarray:
    """How well matrices do (M,): the information that foregrounds with their surroundings share, times that of the insides.

    A wrong basin may be good at one of them: skin on skin with the brains apart, or a small part of one brain on another.
    """
    measure, stack = MEASURES[pair.config.alignment_similarity], np.stack(matrices)
    outside, inside = (_score(pair.samples(level, interior).thinned(2), stack, measure) for interior in (False, True))
    return outside.clip(min=0) * inside.clip(min=0)


def _plausible(matrix: np.ndarray) -> float:
    """Falls from 1 with the change of volume: a brain blown up to the size of a head may share more than one in its place."""
    return float(np.exp(-(np.log(abs(np.linalg.det(matrix[:3, :3]))) ** 2)))


def _sieved(pair: _Pair, interior: bool) -> list[_State]:
    """States, the best first: many briefly refined, fewer refined longer and with a scale; none turned farther than it may."""
    samples = [pair.samples(level, interior) for level in (0, 1)]
    states, limit = _scan_starts(pair, samples[0]), pair.config.alignment_range + 1e-6
    for level, every, kept, steps in SIEVE:
        some, moves = samples[level].thinned(every), _first_moves(pair.config.alignment) if level else "rigid"
        states = [_refine(pair, some, state.matrix, moves, steps, 0.02) for state in _distinct(states, some, kept)]
        states = [state for state in states if _turn(pair, state.matrix) <= limit] or states
    return _distinct(states, some, kept)


def _first_moves(kind: str) -> str:
    """What may change before all of an alignment may: heads differ in size."""
    return "similarity" if kind == "affine" else kind


def _turn(pair: _Pair, matrix: np.ndarray) -> float:
    """By how many degrees a matrix turns, beyond bringing a plane into that of the other slice."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    return float(np.degrees(np.arccos(np.clip((np.trace(left @ right @ pair.turn.T) - 1) / 2, -1, 1))))


def _scan_starts(pair: _Pair, samples: Samples) -> list[_State]:
    """All rotations about a few pairs of centers, and each with a few shifts, scored at a few samples; the best first."""
    one, two, turns = pair.scan.center_of_mass, pair.other.center_of_mass, _rotations(pair)
    spread = float((samples.points.cpu() - torch.as_tensor(one)).square().sum(1).mean().sqrt())
    shifts = np.random.default_rng(pair.config.seed).uniform(-1, 1, (8 * OFFSETS * len(turns), pair.dimension))
    shifts = REACH * spread * shifts[np.linalg.norm(shifts, axis=1) <= 1][: OFFSETS * len(turns)] @ pair.axes.T[: pair.dimension]
    centers = [(one, two), (pair.scan.levels[0].center, pair.other.levels[0].center), (one, one)]
    starts = [(*center, turn) for center in centers for turn in turns]
    starts += [(one, two + pair.turn @ shift, turns[i % len(turns)]) for i, shift in enumerate(shifts)]
    normal = pair.turn @ pair.axes[:, 2] if pair.dimension == 2 else np.zeros(3)
    matrices = np.stack([bring(a, b - normal * (normal @ (b - two)), pair.turn @ turn) for a, b, turn in starts])
    some, measure = samples.thinned(max(1, len(samples.points) // TRIED)), MEASURES[pair.config.alignment_similarity]
    scores = np.concatenate([_score(some, matrices[i : i + 64], measure) for i in range(0, len(matrices), 64)])
    return [_State(matrices[i], scores[i]) for i in np.argsort(-scores, kind="stable")[:STARTS]]


def _rotations(pair: _Pair) -> list[np.ndarray]:
    """Rotations (3, 3) up to `config.alignment_range` degrees, about `SPACING` apart; of a slice about its normal."""
    reach = int(pair.config.alignment_range // SPACING)
    turns = itertools.product(range(-reach, reach + 1), repeat=3 if pair.dimension == 3 else 1)
    vectors = [np.deg2rad(SPACING) * (np.array(t) if pair.dimension == 3 else t[0] * pair.axes[:, 2]) for t in turns]
    return [rotation(v) for v in vectors if np.linalg.norm(v) <= np.deg2rad(pair.config.alignment_range) + 1e-9]


def _distinct(states: Sequence[_State], samples: Samples, count: int) -> list[_State]:
    """The best states that map the samples at least one step of their resolution apart."""
    points, kept = samples.points[:: max(1, len(samples.points) // 200)].double().cpu().numpy(), []
    for state in sorted(states, key=lambda s: -s.score):
        where = apply(state.matrix, points)
        if all(np.linalg.norm(where - other, axis=1).mean() > samples.spacing for _, other in kept):
            kept.append((state, where))
        if len(kept) == count:
            break
    return [state for state, _ in kept]


def _differ(pair: _Pair, matrix: np.ndarray) -> bool:
    """Whether, where both scans reach, one shows clearly more than the other: a brain in a head."""
    here = pair.scan.foreground
    everywhere = Samples(
        here.points(torch.ones_like(here.stack[0], dtype=torch.bool)), here.stack.flatten(), pair.other.foreground, (), 0.0
    )
    some = everywhere.thinned(max(1, len(everywhere.points) // 20_000) | 1)  # an odd step does not follow the rows
    there, met = some.met(some.moved(matrix[None]))
    one, two = float((some.values * met[0]).sum()), float((there[0] * met[0]).sum())
    return not one / UNLIKE < two < one * UNLIKE


def _refine_finely(pair: _Pair, matrix: np.ndarray, kind: str) -> np.ndarray:
    """Coarse to fine, by the information per sample that meets the other image: a part that it does not show costs nothing."""
    for level, moves, steps in ((1, _first_moves(kind), 20), (1, kind, 20), (2, kind, 40), (3, kind, 40)):
        matrix = _refine(pair, pair.samples(level, _differ(pair, matrix)), matrix, moves, steps, power=0.0).matrix
    return matrix


def _refine(
    pair: _Pair, samples: Samples, matrix: np.ndarray, kind: str, steps: int, tolerance: float = 0.01, power: float = 1.0
) -> _State:
    """Newton steps of the information with the outer product of the scores as Hessian, none longer than two voxels."""
    center = samples.points.double().mean(0).cpu().numpy()
    radius = float((samples.points - torch.as_tensor(center).to(samples.points)).square().sum(1).mean().sqrt())
    moves, measure, length = moves_of(kind, pair.axes, pair.dimension, radius), MEASURES[pair.config.alignment_similarity], 2.0
    best, by_place = _evaluate(samples, matrix, measure, power)
    newton = _newton(samples, matrix, by_place, center, moves)
    for _ in range(steps):
        step = length * newton
        step /= max(1.0, np.linalg.norm(step) / (2 * samples.spacing))
        trial = matrix @ small_map(moves @ step, center)
        score, by_place = _evaluate(samples, trial, measure, power)
        if score > best:
            matrix, best, length = trial, score, min(2 * length, 8.0)
            newton = _newton(samples, matrix, by_place, center, moves)
        else:
            length *= 0.3
        if np.linalg.norm(step) < tolerance * samples.spacing:
            break
    return _State(matrix, best)


def _score(samples: Samples, matrices: np.ndarray, measure: Measure) -> np.ndarray:
    """Information of all samples together (M,), per sample: samples that meet nothing tell nothing."""
    values, weight = samples.met(samples.moved(matrices))
    return (measure(samples.values, values, weight).value * weight.double().mean(1)).cpu().numpy()


def _evaluate(samples: Samples, matrix: np.ndarray, measure: Measure, power: float) -> tuple[float, Tensor]:
    """Information times overlap**power, and what each sample adds to its derivative by where it is (N, 3): exact."""
    moved = samples.moved(matrix[None]).requires_grad_()
    values, weight = samples.met(moved)
    information, slope, worth = measure(samples.values, values.detach(), weight.detach())
    total, value = float(weight.detach().sum()), float(information[0])
    if total == 0:
        return 0.0, torch.zeros_like(samples.points)
    overlap = (total / weight.shape[1]) ** power
    by_value, by_weight = slope * weight.detach() * (overlap / total), (worth + power * value) * (overlap / total)
    (by_place,) = torch.autograd.grad([values, weight], [moved], [by_value, by_weight])
    return value * overlap, by_place[0]


def _newton(samples: Samples, matrix: np.ndarray, by_place: Tensor, center: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """The step (K,) by the derivative and, for the Hessian, the outer product of what the samples add to it."""
    linear, middle = (torch.as_tensor(x, dtype=torch.float32, device=by_place.device) for x in (matrix[:3, :3], center))
    shift = by_place @ linear
    each = torch.cat([shift, (shift[:, :, None] * (samples.points - middle)[:, None]).flatten(1)], 1)
    slope, outer = (x.double().cpu().numpy() for x in (each.sum(0), each.T @ each))
    hessian = len(each) * moves.T @ outer @ moves
    hessian += (1e-3 * np.trace(hessian) / len(hessian) + 1e-12) * np.eye(len(hessian))
    return np.linalg.solve(hessian, moves.T @ slope)
