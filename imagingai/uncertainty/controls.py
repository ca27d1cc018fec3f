"""Learn from labeled controls what is normal: how Dice follows from the uncertainty, volumes, image quality, cut-offs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from imagingai.errors import InputError
from imagingai.uncertainty import calibration, regressor
from imagingai.uncertainty.config import LearnQualityConfig
from imagingai.uncertainty.features import IMAGE_FEATURES, Numbers
from imagingai.uncertainty.quality import VERSION, Norms, Quality, deviation, log_volume
from imagingai.uncertainty.regressor import Row
from imagingai.volume import Volume

LEAST = 5  # controls from which anything can be learned
CUT = 3.0  # robust deviations from the controls that are always normal
FLOOR = 0.05  # least deviation of a norm, relative: controls of one scanner hardly differ


@dataclass(frozen=True)
class Control:
    """A labeled image that was segmented. features: structure -> numbers; dice: true one, None where neither has the structure.

    volumes: structure -> {ml, low, high, truth}; spoiled: a copy of worse image quality, which only teaches what a bad Dice looks like.
    """

    name: str
    features: Mapping[str, Numbers]
    image: Numbers
    dice: Mapping[str, float | None]
    volumes: Mapping[str, Numbers] = field(default_factory=dict)
    spoiled: bool = False


def spoil(image: Volume, kind: int, random: np.random.Generator) -> Volume:
    """The image as a worse scan would show it, more or less: noisy, blurred, shaded or with a ghost, one after the other by `kind`."""
    from scipy.ndimage import gaussian_filter

    data, much = image.data.astype(np.float32), random.uniform(0.2, 1.0)
    width = float(np.subtract(*np.percentile(data, (99, 1))))
    axes = [axis for axis, n in enumerate(data.shape) if axis and n > 1]
    if kind % 4 == 0:
        data = data + 0.4 * much * width * random.standard_normal(data.shape, np.float32)
    elif kind % 4 == 1:
        data = gaussian_filter(data, [3 * much * (axis in axes) for axis in range(4)])
    elif kind % 4 == 2:
        ramps = np.ix_(*(np.linspace(-1, 1, n) * random.choice([-1, 1]) for n in data.shape[1:]))
        data = data.min() + (data - data.min()) * np.exp(1.5 * much * sum(ramps) / 3).astype(np.float32)
    else:
        axis = int(random.choice(axes))
        data = data + 0.7 * much * np.roll(data, data.shape[axis] // 2, axis)
    return image.with_data(data)


def learn(controls: Sequence[Control], model: str, config: LearnQualityConfig, table: Mapping[str, Any] | None = None) -> Quality:
    """The quality of a model with this identity; `table` is what is known of its calibration.

    Raises InputError if the controls are too few, or if too few of them are good to say what good looks like.
    """
    clean = [control for control in controls if not control.spoiled]
    if len(clean) < LEAST:
        raise InputError(f"There are {len(clean)} labeled controls, too few to learn what is normal: give {LEAST} or more, better 20.")
    rows = _rows(controls)
    found_in = len({row.case for row in rows if not row.spoiled})
    if found_in < LEAST:
        raise InputError(
            f"The model finds its structures in {found_in} of the {len(clean)} controls, too few to learn from. Is it for them?"
        )
    learned, held_out = regressor.fit(rows)
    predicted = {(row.case, row.structure): float(regressor.expit(y)) for row, y in zip(rows, held_out, strict=True) if not row.spoiled}
    width, measured = _precision(rows, held_out, config.coverage)
    quality = Quality(
        version=VERSION,
        model=model,
        controls=len(clean),
        coverage=config.coverage,
        acceptable=config.acceptable,
        regressor=learned,
        width=width,
        measured=measured,
        present={name: float(np.mean([c.features[name]["volume_ml"] > 0 for c in clean])) for name in clean[0].features},
        volumes=_volume_norms(clean),
        volume_width=_volume_widths(clean, config.coverage),
        image={name: _norm([c.image[name] for c in clean]) for name in IMAGE_FEATURES},
        calibration=dict(table or {}),
        cases=[{"name": c.name, "dice": dict(c.dice), "predicted": {s: predicted.get((c.name, s)) for s in c.dice}} for c in clean],
    )
    return replace(quality, cutoffs=_cutoffs(quality, clean, predicted, config))


def _rows(controls: Sequence[Control]) -> list[Row]:
    """The structures that were found; one that was not found has no features to predict from."""
    return [
        Row(control.name, name, control.features[name], dice, control.spoiled)
        for control in controls
        for name, dice in control.dice.items()
        if dice is not None and "expected_dice" in control.features[name]
    ]


def _precision(rows: Sequence[Row], held_out: np.ndarray, coverage: float) -> tuple[float | None, dict[str, float]]:
    """Conformal half-width of the intervals in logits, and how well the Dice of cases is predicted that were left out."""
    true, spoiled = np.array([row.dice for row in rows]), np.array([row.spoiled for row in rows])
    error = np.abs(regressor.expit(held_out) - true)
    measured = {
        "mean_absolute_error": float(error[~spoiled].mean()),
        "mean_absolute_error_spoiled": float(error[spoiled].mean()) if spoiled.any() else None,
        "correlation": _correlation(regressor.expit(held_out), true),
        "correlation_unspoiled": _correlation(regressor.expit(held_out[~spoiled]), true[~spoiled]),
    }
    return _finite(calibration.conformal_quantile(np.abs(held_out - regressor.logit(true)), coverage)), measured


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's r; None where one of both does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if min(a.std(), b.std()) > 1e-9 else None


def _norm(values: Sequence[float], floor: float | None = None) -> list[float]:
    """Median and robust deviation, which is at least `floor`, or else 5 % of the median."""
    middle = float(np.median(values))
    least = max(FLOOR * abs(middle), 1e-3) if floor is None else floor
    return [middle, max(1.4826 * float(np.median(np.abs(np.array(values) - middle))), least)]


def _volume_norms(clean: Sequence[Control]) -> dict[str, list[float]]:
    """Norms of the logarithm of the volume, for structures that enough controls have."""
    sizes = {name: [size for c in clean if (size := log_volume(c.features[name])) is not None] for name in clean[0].features}
    return {name: _norm(values, FLOOR) for name, values in sizes.items() if len(values) >= LEAST}


def _volume_widths(clean: Sequence[Control], coverage: float) -> dict[str, float | None]:
    """Conformalized quantile regression (Romano et al. 2019) of the volumes, in units of the predicted volume."""
    found = {}
    for name in clean[0].features:
        known = [c.volumes[name] for c in clean if name in c.volumes and c.volumes[name]["ml"] > 0]
        columns = [np.array([volume[key] for volume in known]) for key in ("low", "high", "truth", "ml")]
        found[name] = _finite(calibration.conformal_quantile(calibration.interval_scores(*columns), coverage))
    return found


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _cutoffs(
    quality: Quality, clean: Sequence[Control], predicted: Mapping[tuple[str, str], float], config: LearnQualityConfig
) -> dict[str, float]:
    """Cut-offs that are as strict as they can be while `sensitivity` of the good controls pass all of them at once."""
    good = [c for c in clean if all(dice is None or dice >= config.acceptable for dice in c.dice.values())]
    if len(good) < LEAST:
        lowest = sorted(min((d for d in c.dice.values() if d is not None), default=0.0) for c in clean)
        raise InputError(
            f"Only {len(good)} of the {len(clean)} controls have a Dice of {config.acceptable:g} or more in every structure, {LEAST} are "
            f"needed to say what is normal; the median of the lowest is {np.median(lowest):.2f}: lower --acceptable, or improve the model."
        )
    least = {"dice": -config.acceptable, "volume": CUT, "image": CUT, "domain": 1.0}  # higher is worse
    scores = np.array([list(_scores(quality, control, predicted).values()) for control in good])
    scores = np.maximum(scores, list(least.values()))
    need = int(np.ceil(config.sensitivity * len(good) - 1e-9))
    for rank in range(max(need, 1), len(good) + 1):
        cuts = np.sort(scores, axis=0)[rank - 1]
        if np.count_nonzero((scores <= cuts).all(1)) >= need:
            break
    found = {name: float(cut) for name, cut in zip(least, cuts, strict=True)}
    return found | {"dice": -found["dice"]}


def _scores(quality: Quality, control: Control, predicted: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """How unusual a control is in each respect."""
    dices = [predicted[control.name, name] for name in control.dice if (control.name, name) in predicted]
    sizes = {name: log_volume(control.features[name]) for name in quality.volumes}
    return {
        "dice": -min(dices, default=1.0),
        "volume": max((deviation(quality.volumes, name, size) for name, size in sizes.items() if size is not None), default=0.0),
        "image": max(_image_deviations(quality.image, control.image)),
        "domain": control.image.get("domain", 0.0),
    }


def _image_deviations(norms: Norms, image: Numbers) -> list[float]:
    return [deviation(norms, name, image[name]) for name in norms]
