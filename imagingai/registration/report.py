"""What a registration achieved, as one self-contained HTML page with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagingai import __version__, pictures
from imagingai.registration import figures
from imagingai.registration.evaluate import foreground
from imagingai.registration.quality import MEANINGS, MISSING, RUN, Metrics, losses, rows, show, structures
from imagingai.report import Html, blend, facts, heading, join, key, page, paragraph, picture, settings_table, side_by_side, state, table
from imagingai.transform import Affine, Transform, apply_to_points, jacobian_determinant, warp
from imagingai.volume import Volume, resample_like, same_grid


def registration_report(
    path: str | Path,
    *,
    fixed: Volume,
    moving: Volume,
    moved: Volume,
    transform: Transform,
    initial: Transform | None = None,
    metrics: Metrics,
    jacobian: Volume | None = None,
    similarity_map: Volume | None = None,
    fixed_labels: Volume | None = None,
    moving_labels: Volume | None = None,
    moved_labels: Volume | None = None,
    label_names: Mapping[int, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    history: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write the HTML page.

    The images may have any grid; `moving` and `moving_labels` are shown where the registration started: with `initial`, or
    as they came. `moved` and `moved_labels` are the moving ones after `transform`. `settings` is shown at the end; its
    entries fixed, moving (names) and started go to the top. history: {stage: similarity at each iteration}.
    """
    start = initial or _start(fixed, moving)
    jacobian = jacobian or jacobian_determinant(transform, fixed)
    images = {"fixed": fixed, "moving": warp(moving, start, fixed), "moved": moved, "jacobian": jacobian, "similarity": similarity_map}
    before = moving_labels and warp(moving_labels, start, fixed, interpolation="nearest")
    scene = Scene(fixed, transform, images, {"fixed": fixed_labels, "moving": before, "moved": moved_labels})
    settings, names = settings or {}, label_names or {}
    title = f"Registration of {settings.get('moving', 'moving')} to {settings.get('fixed', 'fixed')}"
    sanity = [*_volume_rows(scene.data["jacobian"][scene.foreground]), _coverage_row(fixed, moving, transform, scene.foreground)]
    parts = [
        *_header(title, metrics, settings),
        _quality_table(metrics, names, sanity),
        *_structure_table(metrics, names),
        *_landmark_table(metrics),
        *_alignment(scene),
        *_outlines(scene),
        *_deformation(scene),
        *_agreement(scene, history),
        *settings_table(settings),
    ]
    Path(path).write_text(page(title, parts), encoding="utf-8")


class Scene:
    """What all pictures share: planes through the middle of the foreground, gray windows, the data as (X, Y, Z) arrays."""

    def __init__(
        self, fixed: Volume, transform: Transform, images: Mapping[str, Volume | None], labels: Mapping[str, Volume | None]
    ) -> None:
        self.grid, self.transform = fixed, transform
        self.data = {name: _onto(fixed, item, "linear") for name, item in images.items() if item is not None}
        self.labels = {name: _onto(fixed, item, "nearest") for name, item in labels.items() if item is not None}
        bright = foreground(fixed)
        self.foreground = bright if bright.any() else np.ones_like(bright)
        self.planes = pictures.planes(fixed, pictures.center_of(self.foreground))
        self.window = {name: pictures.window(self.data[name]) for name in ("fixed", "moving", "moved")}

    def arrange(self, shown: Sequence[Html]) -> Html:
        """Three planes need the whole width; pictures of one plane stand side by side."""
        return join(*shown) if len(self.planes) > 1 else side_by_side(shown)

    @property
    def words(self) -> str:
        """Which planes, for descriptions."""
        names = [plane.name for plane in self.planes if plane.name]
        return f"{', '.join(names)} plane{'s' if len(names) > 1 else ''}" if names else "whole image"


def _onto(fixed: Volume, image: Volume, interpolation: str) -> np.ndarray:
    """(X, Y, Z) on the grid of the fixed image."""
    return (image if same_grid(fixed, image) else resample_like(image, fixed, interpolation=interpolation)).data[0]


def _start(fixed: Volume, moving: Volume) -> Transform:
    """Where the files place the images; middle on middle if the moving image cannot be seen there at all."""
    there = Affine(np.eye(4))
    if not warp(moving, there, fixed, interpolation="nearest").data.any():
        there.matrix[:3, 3] = moving.center - fixed.center
    return there


# --- numbers


def _header(title: str, metrics: Metrics, settings: Mapping[str, Any]) -> list[Html]:
    run = [(MEANINGS[name].name, MEANINGS[name].format(metrics[name])) for name in RUN if metrics.get(name) is not None]
    when = [("when", str(settings["started"]))] if "started" in settings else []
    return [heading(title, 1), facts([*when, ("ImagingAI", __version__), *run])]


def _quality_table(metrics: Metrics, names: Mapping[int, str], extra: Sequence[Sequence[str | Html]]) -> Html:
    lines = []
    for name, meaning, before, after in rows(metrics):
        light, remark = meaning.judge(before, after)
        if name == "dice" and (lost := losses(metrics, names)):
            light, remark = "bad" if light == "bad" else "look", f"{remark} Lost more than 0.02: {', '.join(lost)}.".strip()
        shown = [MISSING if value is None else meaning.format(value) for value in (before, after)]
        lines.append([meaning.name, *shown, state(light), f"{meaning.text} {remark}".strip()])
    columns = ("Measure", "Before", "After", "Check", "What it says")
    return join(heading("Quality"), table("Before is where the registration started.", columns, [*lines, *extra], numbers=(1, 2)))


def _volume_rows(jacobian: np.ndarray) -> list[list[str | Html]]:
    """Sanity of the change of volume inside the foreground, from J (n,)."""
    low, middle, high = np.percentile(jacobian, (1, 50, 99))
    local = "good" if low > 0.2 * middle and high < 5 * middle else "look"
    whole = "good" if 0.5 < middle < 2 else "look"
    text = "Volume in the moving image relative to the fixed one. "
    return [
        [
            "Size, typical",
            "",
            f"{middle:.2f}",
            state(whole),
            text + ("" if whole == "good" else "Very different sizes: check the spacing of both files."),
        ],
        [
            "Size, 1 % to 99 %",
            "",
            f"{low:.2f} – {high:.2f}",
            state(local),
            text + ("" if local == "good" else "Some places change more than fivefold; look at them in the Jacobian map."),
        ],
    ]


def _coverage_row(fixed: Volume, moving: Volume, transform: Transform, foreground: np.ndarray) -> list[str | Html]:
    """How much of the foreground (X, Y, Z) of the fixed image the moving image reaches."""
    index = np.argwhere(foreground)
    index = index[:: max(1, len(index) // 20_000)]
    mapped = apply_to_points(transform, index @ fixed.affine[:3, :3].T + fixed.origin)
    there = (mapped - moving.origin) @ np.linalg.inv(moving.affine[:3, :3]).T
    inside = np.all((there > -0.5) & (there < np.array(moving.shape) - 0.5), axis=1)
    share = 100 * float(inside.mean())
    light = "good" if share > 95 else "look" if share > 50 else "bad"
    remark = "" if light == "good" else " The rest lies outside the field of view of the moving image and means nothing there."
    return ["Covered", "", f"{share:.0f} %", state(light), "Part of the fixed foreground for which there are moving voxels." + remark]


def _structure_table(metrics: Metrics, names: Mapping[int, str]) -> list[Html]:
    found = structures(metrics, names)
    if not found:
        return []
    surface = "hd95" in metrics
    columns = ("Structure", "Dice before", "after", "change", *(("HD95 before", "after") if surface else ()))
    lines = []
    for name, (dice_before, dice, hd95_before, hd95) in found:
        change = None if dice is None or dice_before is None else dice - dice_before
        light = "" if change is None else "good" if change > 0.002 else "bad" if change < -0.02 else "look" if change < -0.002 else ""
        shown = Html(f'<span class="{light}">{MISSING if change is None else f"{change:+.3f}"}</span>')
        cells = [show("{:.3f}", dice_before), show("{:.3f}", dice), shown]
        lines.append([name, *cells, *([show("{:.2f} mm", hd95_before), show("{:.2f} mm", hd95)] if surface else [])])
    caption = "Overlap and surface distance of each structure"
    return [heading("Structures"), table(caption, columns, lines, numbers=range(1, len(columns)), total=True)]


def _landmark_table(metrics: Metrics) -> list[Html]:
    """The landmark error as a function of how far the landmarks were apart before."""
    found = metrics.get("tre_by_displacement")
    if not found:
        return []
    lines = [
        [f"{row['from']:.1f} – {row['to']:.1f} mm", str(row["count"]), f"{row['mean']:.2f} mm", f"{row['low']:.2f} – {row['high']:.2f} mm"]
        for row in found
    ]
    columns = ("Apart before", "Landmarks", "Mean error", "95 % confidence")
    return [heading("Landmarks"), table("Error after, by the distance before", columns, lines, numbers=(1, 2, 3))]


# --- pictures


def _alignment(scene: Scene) -> list[Html]:
    """Fixed, moving, moved; one over the other; checkerboards."""

    def image(name: str, text: str) -> Html:
        figure = pictures.draw_image(scene.planes, scene.data[name], scene.window[name])
        return picture(figure, f"{text}, {scene.words}", text, name=name)

    def board(name: str, text: str) -> Html:
        limits = [scene.window["fixed"], scene.window[name]]
        figure = figures.draw_checkerboard(scene.planes, scene.data["fixed"], scene.data[name], limits)
        return picture(figure, f"Checkerboard of the fixed and the {name} image, {scene.words}", text, name=f"checkerboard_{name}")

    return [
        heading("Images"),
        paragraph(pictures.describe_orientation(scene.grid), soft=True),
        scene.arrange(
            [
                image("fixed", "Fixed image"),
                image("moving", "Moving image, before"),
                image("moved", "Moved image: the moving image on the fixed one, after"),
                blend("fixed", "moved", ("Fixed image", "Moved image")),
            ]
        ),
        heading("Checkerboard"),
        scene.arrange(
            [
                board("moving", "Fixed and moving image, before: edges break where squares meet"),
                board("moved", "Fixed and moved image, after: edges should run on across squares"),
            ]
        ),
    ]


def _outlines(scene: Scene) -> list[Html]:
    """Label outlines of fixed and moving or moved; without labels the outline of what is bright in the images."""
    labeled = {"fixed", "moving", "moved"} <= scene.labels.keys()
    drawn = scene.labels if labeled else {name: scene.data[name] > pictures.otsu(scene.data[name]) for name in ("fixed", "moving", "moved")}
    what = "labels" if labeled else "bright tissue"
    found = []
    for name, when in (("moving", "before"), ("moved", "after")):
        outlined = [(drawn["fixed"], figures.FIXED_COLOR), (drawn[name], figures.MOVING_COLOR)]
        figure = pictures.draw_outlines(scene.planes, scene.data[name], scene.window[name], outlined)
        caption = join(
            f"The {name} image, {when}, with outlines of ",
            key(figures.FIXED_COLOR, f"fixed {what}"),
            key(figures.MOVING_COLOR, f"{name} {what}"),
        )
        found.append(
            picture(
                figure,
                f"Outlines of the fixed and the {name} {what} over the {name} image, {scene.words}",
                caption,
                name=f"outlines_{name}",
            )
        )
    return [heading("Outlines of the labels" if labeled else "Outlines"), scene.arrange(found)]


def _deformation(scene: Scene) -> list[Html]:
    """The warped lattice and the Jacobian determinant."""
    lattice = figures.draw_lattice(scene.planes, scene.data["moved"], scene.window["moved"], scene.grid, scene.transform)
    volume = figures.draw_jacobian(scene.planes, scene.data["jacobian"], scene.foreground)
    folds = int(np.count_nonzero(scene.data["jacobian"] <= 0))
    text = "A square lattice drawn on the moving image and moved with it (without the affine part). Lines must not cross"
    legend = "Local change of size. Red: larger in the moving image, so it was shrunk. Blue: smaller, so it was stretched"
    shown = [
        picture(lattice, f"Warped lattice over the moved image, {scene.words}", text, name="lattice"),
        picture(
            volume,
            f"Map of the Jacobian determinant, {scene.words}; {folds} folded voxels",
            join(legend, key(figures.FOLD_COLOR, f"folded ({folds} voxels)")),
            name="jacobian",
        ),
    ]
    return [heading("Deformation"), scene.arrange(shown)]


def _agreement(scene: Scene, history: Mapping[str, Sequence[float]] | None) -> list[Html]:
    """The similarity map and the curve of the optimization, where given."""
    found = []
    if "similarity" in scene.data:
        figure = figures.draw_similarity(scene.planes, scene.data["similarity"], scene.foreground, "Dissimilarity")
        text = "Where the images still differ (bright): anatomy that one of them lacks, or a registration that is not finished there"
        shown = picture(figure, f"Map of the remaining dissimilarity, {scene.words}", text, name="similarity")
        found += [heading("Similarity map"), scene.arrange([shown])]
    if history:
        text = "The similarity that was optimized, at each iteration; stages differ in resolution, so compare only within one"
        alt = "Similarity against iteration: " + ", ".join(history)
        found += [heading("Convergence"), picture(figures.draw_curves(history), alt, text, name="convergence")]
    return found
