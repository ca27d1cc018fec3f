"""The traffic light of a segmentation: what is normal (quality.json, learned from labeled controls), and what is unusual about a case."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imagingai.errors import InputError
from imagingai.job import write_json
from imagingai.uncertainty import calibration, regressor
from imagingai.uncertainty.features import IMAGE_FEATURES, Numbers

VERSION = 1
USUAL = 0.9  # share of the controls that have a structure from which a case without it is a problem
AGREE = 0.7  # mean Dice between the samples below which a case must be looked at when there are no controls
FAR = 2.0  # times a cut-off: not only unusual but a problem
MORE = {"bad": 2, "look": 1, "good": 0}
Norms = Mapping[str, list[float]]  # name -> [middle, deviation] of the controls


@dataclass(frozen=True)
class Quality:
    """The content of quality.json. Norms of volumes are of their logarithm (ml); cutoffs: dice, and volume, image (deviations), domain.

    width: half-width in logits of the interval of a predicted Dice, volume_width: conformal quantile of a volume's interval;
    None where there are too few controls to promise the coverage. measured: how well Dice is predicted for cases left out.
    """

    version: int
    model: str
    controls: int
    coverage: float
    acceptable: float
    regressor: regressor.Regressor
    width: float | None
    measured: dict[str, float]
    present: dict[str, float]
    volumes: dict[str, list[float]]
    volume_width: dict[str, float | None]
    image: dict[str, list[float]]
    cutoffs: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    cases: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write quality.json."""
        write_json(path, asdict(self))


class Finding(NamedTuple):
    """Something unusual. light: look or bad; flag: which check found it."""

    light: str
    text: str
    flag: str


def load_quality(path: Path, model: str | None = None) -> Quality:
    """Read quality.json. Raises InputError if it is broken, of another version, or not of the model with this identity."""
    advice = "Run imagingai learn-quality with this model."
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The quality file {path} cannot be read: {error.strerror}. {advice}") from None
    except ValueError as error:
        raise InputError(f"The quality file {path} is broken ({error}). {advice}") from None
    if not isinstance(found, dict) or set(found) != {item.name for item in fields(Quality)} or found["version"] != VERSION:
        raise InputError(f"{path} is no quality file of version {VERSION}. {advice}")
    if model is not None and found["model"] != model:
        raise InputError(f"The quality file {path} was learned for another model ({found['model']}, this is {model}). {advice}")
    return Quality(**found)


# --- judging


def judge(quality: Quality | None, features: Mapping[str, Numbers], image: Numbers) -> dict[str, Any]:
    """The traffic light of a case, with its reasons.

    features: of `uncertainty_features`; image: of `image_features`, with domain (0 typical, above 1 outside) if the model knows it.
    Returns light (good, look, bad), reasons (sentences), flags (dice, volume, missing, image, domain, samples), out_of_domain,
    and predicted_dice {structure: {dice, low, high, coverage}}. Without a quality only what the model itself knows is judged.
    """
    if quality is None:
        findings, predicted, fine = [*_domain(None, image), *_samples(features)], {}, _only_the_model(image)
        if "domain" not in image and not findings:
            findings = [Finding("look", _only_the_model(image), "unknown")]
    else:
        predicted = predict_dice(quality, features)
        findings = [*_missing(quality, features), *_dice(quality, predicted), *_volumes(quality, features)]
        findings += [*_domain(quality, image), *_image(quality, image)]
        fine = _as_usual(quality, predicted)
    findings.sort(key=lambda finding: -MORE[finding.light])
    return {
        "light": findings[0].light if findings else "good",
        "reasons": [finding.text for finding in findings] or [fine],
        "flags": sorted({finding.flag for finding in findings}),
        "out_of_domain": any(finding.flag == "domain" for finding in findings),
        "predicted_dice": predicted,
    }


def predict_dice(quality: Quality, features: Mapping[str, Numbers]) -> dict[str, dict[str, float]]:
    """Predicted Dice of the structures that are there, with a conformal interval (Angelopoulos & Bates 2023)."""
    found = {}
    for name, numbers in features.items():
        if name in quality.regressor["structures"] and "expected_dice" in numbers:
            y = regressor.predict(quality.regressor, name, numbers)
            low, high = (0.0, 1.0) if quality.width is None else map(float, regressor.expit([y - quality.width, y + quality.width]))
            found[name] = {"dice": float(regressor.expit(y)), "low": low, "high": high, "coverage": quality.coverage}
    return found


def widen_volumes(quality: Quality, volumes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Volumes {structure: {ml, samples ...}} with conformal intervals: they hold the true volume in `coverage` of the cases."""
    found = {name: dict(values) for name, values in volumes.items()}
    for name, width in quality.volume_width.items():
        if name in found and width is not None:
            values, ends = found[name], [(1 - quality.coverage) / 2, (1 + quality.coverage) / 2]
            low, high = calibration.widen(*np.quantile(values["samples"], ends).tolist(), width, values["ml"])
            found[name] |= {"low": low, "high": high, "level": quality.coverage, "conformal": True}
    return found


def calibrate(probability: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (K, ...) sharpened (temperature below 1) or flattened (above 1), as softmax(log p / temperature)."""
    powered = np.maximum(probability, 1e-7) ** (1 / temperature)
    return powered / powered.sum(0)


def deviation(norms: Norms, name: str, value: float) -> float:
    """Robust deviations of a value from the middle of the controls."""
    middle, spread = norms[name]
    return abs(value - middle) / spread


def log_volume(numbers: Numbers) -> float | None:
    """Logarithm of the volume in ml; None for an empty structure."""
    return float(np.log(numbers["volume_ml"])) if numbers["volume_ml"] > 0 else None


def _missing(quality: Quality, features: Mapping[str, Numbers]) -> Iterator[Finding]:
    for name, share in quality.present.items():
        there = features.get(name, {}).get("volume_ml", 0.0)
        if not there and share >= USUAL:
            yield Finding("bad", f"{name} was not found; {share:.0%} of your {quality.controls} controls have it.", "missing")
        elif there and share == 0:
            yield Finding("look", f"{name} was found ({there:.3g} ml), but in none of your {quality.controls} controls.", "missing")


def _dice(quality: Quality, predicted: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    cut = quality.cutoffs["dice"]
    for name, found in sorted(predicted.items(), key=lambda item: item[1]["dice"]):
        if found["dice"] < cut:
            light = "bad" if found["high"] < quality.acceptable else "look"
            interval = f"{found['low']:.2f} to {found['high']:.2f}"
            yield Finding(light, f"{name} has a predicted Dice of {found['dice']:.2f} ({interval}); normal is {cut:.2f} or more.", "dice")


def _volumes(quality: Quality, features: Mapping[str, Numbers]) -> Iterator[Finding]:
    cut = quality.cutoffs["volume"]
    for name, (middle, spread) in quality.volumes.items():
        size = log_volume(features[name]) if name in features else None
        if size is not None and (far := deviation(quality.volumes, name, size)) > cut:
            low, high = np.exp([middle - cut * spread, middle + cut * spread])
            text = f"{name} has {np.exp(size):.3g} ml; normal in your {quality.controls} controls is {low:.3g} to {high:.3g} ml."
            yield Finding("bad" if far > FAR * cut else "look", text, "volume")


def _image(quality: Quality, image: Numbers) -> Iterator[Finding]:
    cut = quality.cutoffs["image"]
    for name, words in IMAGE_FEATURES.items():
        if name in quality.image and deviation(quality.image, name, image[name]) > cut:
            middle, spread = quality.image[name]
            normal = f"{max(0.0, middle - cut * spread):.3g} to {middle + cut * spread:.3g}"
            text = f"Of the image, {words} is {image[name]:.3g}; normal in your {quality.controls} controls is {normal}."
            yield Finding("look", text, "image")


def _domain(quality: Quality | None, image: Numbers) -> Iterator[Finding]:
    """A scan that is unlike the training images; controls of the user may show that it does well beyond them."""
    cut = 1.0 if quality is None else quality.cutoffs["domain"]
    distance = image.get("domain", 0.0)
    if distance > cut:
        text = f"The image is unlike those that the model was trained on: its distance is {distance:.2g}, normal is up to {cut:.2g}."
        yield Finding("bad" if distance > FAR * cut else "look", f"{text} Do not rely on the result without looking at it.", "domain")


def _samples(features: Mapping[str, Numbers]) -> Iterator[Finding]:
    for name, numbers in features.items():
        if numbers.get("samples_dice", 1.0) < AGREE:
            text = f"The samples of {name} agree with a mean Dice of only {numbers['samples_dice']:.2f}; below {AGREE} is unusual."
            yield Finding("look", text, "samples")
    if features and not any(numbers["volume_ml"] for numbers in features.values()):
        yield Finding("bad", f"The segmentation is empty: it has no {' and no '.join(features)}.", "missing")


def _as_usual(quality: Quality, predicted: Mapping[str, Mapping[str, float]]) -> str:
    lowest = f"The lowest predicted Dice is {min(found['dice'] for found in predicted.values()):.2f}; " if predicted else ""
    text = f"{lowest}volumes and image are as in your {quality.controls} controls."
    return text[0].upper() + text[1:]


def _only_the_model(image: Numbers) -> str:
    known = "Nothing is known about the images that the model was trained on"
    if "domain" in image:
        known = f"The image is like those that the model was trained on: its distance is {image['domain']:.2g}, normal is up to 1"
    return f"{known}. There is no quality file, so no Dice is predicted; imagingai learn-quality makes one from labeled controls."
