"""The training loop of every network here: exact from its seed, resumes after a kill, tells the time that is left."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagingai.errors import InputError
from imagingai.job import Report, ignore, outputs_of, write_json

log = logging.getLogger(__name__)

MARK = "training.json"  # tells whose state it is
FREE = ("device", "threads")  # settings that may differ when a training goes on
Batch = tuple[Tensor, Tensor]  # inputs (B, C, *grid), targets


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn. `every`: steps between validations; `patience`: validations without progress (0: no limit)."""

    steps: int = 1000
    learning_rate: float = 1e-3
    every: int = 100
    patience: int = 0
    bfloat16: bool = False

    def rate(self, step: int) -> float:
        """Learning rate: a linear warm-up (5 % of the steps), then half a cosine down to zero."""
        warm = max(1, self.steps // 20)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


@dataclass
class State:
    """What a stopped training needs to go on exactly."""

    step: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    waited: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    network: nn.Module,
    batch: Callable[[int], Batch],
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
    schedule: Schedule,
    folder: Path,
    *,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    report: Report = ignore,
) -> list[dict[str, float]]:
    """Train `network` in place and return its history; the weights that it ends with are those of the best validation.

    `batch(step)` gives the data of a step and depends on nothing else, so that a resumed training sees what an
    unbroken one would have seen; torch's own random numbers (dropout) are seeded with the step. `loss(network, inputs, targets)`
    runs the network. `validate(network)` returns figures, among them "score", higher is better. The state
    is in `folder/checkpoint.pt`, the history in `folder/history.json`; if they exist, training goes on from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.99))
    state, best = _resume(folder / "checkpoint.pt", network, optimizer)
    began, first, running = time.monotonic() - state.seconds, state.step, math.nan
    device = next(network.parameters()).device
    while state.step < schedule.steps and not (schedule.patience and state.waited >= schedule.patience):
        value = _step(network, optimizer, batch(state.step), loss, schedule, state.step, device)
        running = value if math.isnan(running) else 0.95 * running + 0.05 * value
        state.step += 1
        state.seconds = time.monotonic() - began
        if state.step % schedule.every == 0 or state.step == schedule.steps:
            figures = validate(_evaluating(network)) if validate else {"score": -running}
            state.history.append({"step": state.step, "loss": running, "seconds": round(state.seconds, 1), **figures})
            state.waited = 0 if figures["score"] > state.best else state.waited + 1
            if figures["score"] > state.best:
                state.best, best = figures["score"], {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
            _save(folder, {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "state": vars(state), "best": best})
            log.info("step %d: %s", state.step, state.history[-1])
        left = (schedule.steps - state.step) * state.seconds / state.step if state.step > first else 0
        report(state.step / schedule.steps, f"Step {state.step} of {schedule.steps}, loss {running:.3f}, {_duration(left)} left")
    network.load_state_dict(best)
    _evaluating(network)
    return state.history


def check_results(folder: Path, names: Iterable[str]) -> None:
    """Raise InputError, now and not after hours, if a result would replace a file of the user in the job folder."""
    ours = outputs_of(folder)
    if foreign := [name for name in names if name not in ours and (folder / name).exists()]:
        raise InputError(f"{folder} already has {', '.join(foreign)}, which would be replaced. Choose another output folder.")


def keep_state(state: Path, about: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Keep what a stopped training left in the folder `state` if it was the same one; otherwise start anew.

    about: its settings; files: what it learns from, told apart by size and time. A folder that is not ours is never touched:
    it raises InputError.
    """
    mark, known = state / MARK, {str(file.resolve()): [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(files)}
    about = json.loads(json.dumps({"about": dict(about), "files": known}, default=str))
    if state.is_dir() and any(state.iterdir()):
        if not mark.is_file():
            raise InputError(f"{state} already exists, and the training keeps its state there. Choose another output folder.")
        if json.loads(mark.read_text(encoding="utf-8")) == about:
            return
        clear_state(state)
    state.mkdir(parents=True, exist_ok=True)
    write_json(mark, about)


def clear_state(state: Path) -> None:
    """Remove the state, the mark that tells whose it is last: a kill in between must not leave a folder that looks like one of the user."""
    for place in state.iterdir():
        if place.is_dir():
            shutil.rmtree(place)
    shutil.rmtree(state)


def files_in(places: Iterable[Path]) -> list[Path]:
    """All files of some files and folders."""
    return [file for place in places for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file()]


def _step(network, optimizer, data: Batch, loss, schedule: Schedule, step: int, device: torch.device) -> float:
    """One update of the weights; returns the loss."""
    network.train()
    for group in optimizer.param_groups:
        group["lr"] = schedule.rate(step)
    inputs, targets = (x.to(device, non_blocking=True) for x in data)
    torch.manual_seed(step)
    with torch.autocast(device.type, torch.bfloat16, enabled=schedule.bfloat16):
        value = loss(network, inputs, targets)
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return float(value.detach())


def _evaluating(network: nn.Module) -> nn.Module:
    return network.eval()


def _resume(file: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[State, dict[str, Any]]:
    if not file.exists():
        return State(), {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
    saved = torch.load(file, map_location="cpu", weights_only=True)
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    return State(**saved["state"]), saved["best"]


def _save(folder: Path, content: dict[str, Any]) -> None:
    """Through a temporary file: a kill or a full disk leaves the last checkpoint whole."""
    packed, temporary = io.BytesIO(), folder / ".checkpoint.pt"
    torch.save(content, packed)  # into memory: of a full disk torch would not tell
    try:
        temporary.write_bytes(packed.getbuffer())
        os.replace(temporary, folder / "checkpoint.pt")
    finally:
        temporary.unlink(missing_ok=True)
    (folder / "history.json").write_text(json.dumps(content["state"]["history"], indent=1), encoding="utf-8")


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


def dice_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy + 1 - mean soft Dice of the classes; logits (B, K, *grid), labels (B, *grid) long."""
    log_probability = F.log_softmax(logits, 1)
    entropy = F.nll_loss(log_probability, labels)
    probability = log_probability.exp().flatten(2)
    flat = labels.flatten(1)[:, None]
    overlap = torch.zeros_like(probability).scatter_(1, flat, probability.gather(1, flat)).sum((0, 2))
    size = probability.sum((0, 2)) + torch.bincount(labels.flatten(), minlength=logits.shape[1])
    return entropy + 1 - ((2 * overlap + 1) / (size + 1)).mean()


@torch.no_grad()
def dice_per_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Dice of the most probable class, (K,); nan where a class is in neither. logits (B, K, *grid), labels (B, *grid)."""
    count, found = logits.shape[1], logits.argmax(1)
    common = torch.bincount(labels[found == labels], minlength=count)
    size = torch.bincount(labels.flatten(), minlength=count) + torch.bincount(found.flatten(), minlength=count)
    return torch.where(size > 0, 2 * common / size, torch.nan)
