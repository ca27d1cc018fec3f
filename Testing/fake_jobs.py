"""Results of the segmentation tasks for tests of the panel: the files and figures that the tasks write, made in a moment.

As a program it stands in for `python -m imagingai run FOLDER`, so that panel and child process are real and only the task is not.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from imagingai.job import write_json
from imagingai.volume import Volume, load, save

NAMES = ("background", "Left ball", "Core")
SHIFTS = (-2, -1, 1, 2)  # of the border in the samples, in voxels
QUALITY = {
    "good": ["Predicted Dice of Core is 0.91; good controls have 0.80 or more."],
    "look": [
        "Predicted Dice of Core is 0.71; good controls have 0.80 or more.",
        "The volume of Core is 2.1 ml; controls have 2.4 to 3.9 ml.",
    ],
    "bad": ["The image is unlike all that the model has learned from: its distance is 9.1, controls have up to 3.2."],
}


def writeResult(folder: Path, image: Volume, light: str = "look", imageFile: Path | str = "") -> dict:
    """A result of segment: two balls in one another, whose border four samples put to different places."""
    folder.mkdir(parents=True, exist_ok=True)
    inside = image.data[0] > image.data[0].mean()
    distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
    samples = np.stack([np.where(distance > 4 + s, 2, np.where(distance > s, 1, 0)) for s in SHIFTS]).astype(np.uint8)
    probability = np.stack([(samples == k).mean(0) for k in range(3)]).astype("f4")
    entropy = -sum(p * np.log2(np.where(p > 0, p, 1)) for p in probability).astype("f4")

    def write(name: str, array: np.ndarray) -> None:
        save(Volume(array[None], image.affine), folder / f"{name}.nii.gz")

    write("segmentation", probability.argmax(0).astype("i2"))
    (folder / "segmentation.csv").write_text("value,name\n1,Left ball\n2,Core\n", encoding="utf-8")
    for name, array in (("entropy", entropy), ("mutual_information", entropy * 0.25), ("expected_entropy", entropy * 0.75)):
        write(name, array)
    write("border_band", np.where(entropy > 0, 3.0, 0.0).astype("f4"))
    for k in (1, 2):
        write("probability_" + NAMES[k].lower().replace(" ", "_"), probability[k])
    for number, sample in enumerate(samples, 1):
        write(f"sample_{number:02d}", sample.astype("i2"))
    (folder / "report.html").write_text("<p>a report</p>", encoding="utf-8")
    voxel = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    ml = {NAMES[k]: [float((sample == k).sum() * voxel) for sample in samples] for k in (1, 2)}
    dice = {"good": 0.91, "look": 0.71, "bad": 0.31}[light]
    values = {
        "classes": NAMES,
        "values": (0, 1, 2),
        "volumes": {
            n: {"ml": float(np.mean(v)), "low": min(v), "high": max(v), "level": 0.9, "unit": "ml", "samples": v} for n, v in ml.items()
        },
        "border_band": {name: {"mean_mm": 2.4, "p95_mm": 3.0} for name in ml},
        "uncertainty": {name: {"samples_dice": dice} for name in ml},
        "quality": {
            "light": light,
            "reasons": QUALITY[light],
            "out_of_domain": light == "bad",
            "predicted_dice": {name: {"dice": dice, "low": dice - 0.06, "high": dice + 0.04} for name in ml},
        },
    }
    job = {"task": "segment", "inputs": {"image": str(imageFile)}, "config": {}}
    if not (folder / "job.json").exists():
        write_json(folder / "job.json", job)
    result = {"state": "done", "outputs": sorted(p.name for p in folder.iterdir()), "job": job, "started": "2026-01-01T00:00:00", **values}
    write_json(folder / "result.json", result)
    return result


def say(fraction: float, text: str) -> None:
    print(json.dumps({"fraction": fraction, "text": text}), flush=True)


def stopped(folder: Path) -> bool:
    if (folder / "cancel").exists():
        write_json(folder / "result.json", {"state": "cancelled", "error": "Stopped on request; nothing was written."})
        return True
    return False


def train(folder: Path, steps: int) -> None:
    """A curve that grows: 20 steps in each tenth of a second, from where a stopped training was."""
    state = folder / "training" / "history.json"
    state.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(state.read_text()) if state.exists() else []
    while len(rows) * 20 < steps:
        time.sleep(0.1)
        step = 20 * (len(rows) + 1)
        rows.append({"step": step, "loss": 2 / (1 + step / 100), "score": 1 - 1 / (1 + step / 80), "seconds": step / 10})
        write_json(state, rows)
        say(step / steps, f"Step {step} of {steps}")
        if stopped(folder):
            return
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "report.html").write_text("<p>a report</p>")
    write_json(folder / "history.json", [rows])
    state.unlink()
    write_json(folder / "result.json", {"state": "done", "outputs": ["model.safetensors"]})


def choose(folder: Path, job: dict) -> None:
    cases = sorted(path.name.split(".")[0] for path in Path(job["inputs"]["images"]).iterdir())
    with (folder / "next.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["case", "arm", "rank", "score", "file", "slice"])
        table.writerows([(case, "entropy", rank, 1 / rank, f"{case}.nii.gz", "k 6") for rank, case in enumerate(cases[:2], 1)])
        table.writerows([(case, "random", rank, 0, f"{case}.nii.gz", "") for rank, case in enumerate(cases[-2:], 1)])
    curves = {arm: [{"labeled": 4, "score": 0.5}, {"labeled": 6, "score": end}] for arm, end in (("entropy", 0.62), ("random", 0.6))}
    write_json(folder / "campaign.json", {"curves": curves})
    write_json(
        folder / "result.json", {"state": "done", "outputs": ["next.csv", "campaign.json"], "message": "Label the 4 images of next.csv."}
    )


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    say(0.1, "Loading the model")
    if job["config"].get("samples") == 99:  # of a test that cancels
        while not stopped(folder):
            time.sleep(0.05)
    elif job["config"].get("samples") == 98:
        write_json(folder / "result.json", {"state": "failed", "error": "The model has 2 channels and --image is one. Give --image2 too."})
    elif job["task"] == "segment":
        writeResult(folder, load(Path(job["inputs"]["image"])))
    elif job["task"] == "train-segmentation":
        train(folder, job["config"].get("steps", 2000))
    elif job["task"] == "select-cases":
        choose(folder, job)
    elif job["task"] == "learn-quality":
        write_json(folder / "quality.json", {})
        write_json(folder / "result.json", {"state": "done", "outputs": ["quality.json"]})


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("run") + 1]))
