"""The experiments of Linardos et al. (2022), tables 2 to 4, on synthetic hearts (centers.py): is a heart hypertrophic?

    python benchmarks/federated/linardos.py --work W               # an hour or more; goes on where it was stopped
    python benchmarks/federated/linardos.py --work W --part 1/2    # one half of what is missing; start 2/2 at the same time
    python benchmarks/federated/linardos_tables.py --work W        # results/linardos.md and .png, of what is there

Pooled data (CDS), FedAvg (FL), equal voting (FL-EV); collaborative cross validation (CCV: five folds, every center gives a fifth of its
people) and leave-center-out (LCO: four folds); four sets of augmentations; with and without Nyul harmonization from the average of the
centers' histograms; five seeds: 1080 trainings, and 100 more for the curation of the input (table 2). Every training is a federation as
`imagingai federated simulate` runs it, pooled data one with a single site; the same seed starts CDS, FL and FL-EV from the same weights.
As in the paper a tenth of the training data chooses the round, and the AUC is of the predictions of all folds together; only the
end-diastolic phase is used (the paper: both, and this one alone in an experiment on the side). Each training is a line of
W/trainings*.jsonl.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from centers import CENTERS, CLASSES, folder_of, write_centers
from common import add_line, begin, parser, read_lines

from imagingai.federated.config import ProjectConfig

FOLDS, SEEDS = 5, 5
METHODS = {"CDS": "fedavg", "FL": "fedavg", "FL-EV": "equal"}
AUGMENTATIONS = {"none": "None", "basic": "Basic", "shape": "Shape", "shape_intensity": "Shape and intensity"}
CURATIONS = {  # settings of the project (figure 2 of the paper)
    "plain": {"values": (), "channels": 1},
    "masked": {"values": (1, 2, 3), "channels": 1},
    "split": {"values": (1, 2, 3), "channels": 3},
}
PROJECT = ProjectConfig(
    task="image-classification",
    classes=CLASSES,
    network="small",
    dimension=3,
    spacing=(4.5, 4.5, 10.0),
    patch=(24, 24, 8),
    rounds=6,
    epochs=1.0,
    batch=8,
    learning_rate=0.002,
    optimizer="adam",
    held_out=0.1,
    min_sites=1,
)


@dataclass(frozen=True)
class Training:
    """One training: what is held out (fold of a validation), and how the rest is learned."""

    curation: str
    augmentation: str
    harmonization: str
    validation: str
    fold: str
    method: str
    seed: int


def trainings() -> Iterator[Training]:
    """All of them: all seeds without augmentations first, then the rest seed by seed, so that what is there when time is up is balanced."""
    folds = [("CCV", str(k)) for k in range(FOLDS)] + [("LCO", center) for center in CENTERS]
    for seed, fold, method in itertools.product(range(SEEDS), folds, METHODS):
        yield Training("split", "none", "nyul", *fold, method, seed)
    for seed in range(SEEDS):
        for curation, fold, method in itertools.product(("plain", "masked"), folds[:FOLDS], ("CDS", "FL")):
            yield Training(curation, "none", "nyul", *fold, method, seed)
        for harmonization, augmentation, fold, method in itertools.product(("nyul", "none"), AUGMENTATIONS, folds, METHODS):
            if (harmonization, augmentation) != ("nyul", "none"):
                yield Training("split", augmentation, harmonization, *fold, method, seed)


def read_samples(work: Path, curation: str) -> dict[str, list]:
    """center -> all samples, as the network sees them before harmonization."""
    from imagingai.federated.learner import find_cases, read_all
    from imagingai.job import ignore

    config, samples = replace(PROJECT, **CURATIONS[curation]), {}
    for center in CENTERS:
        folder = work / "centers" / folder_of(center)
        inputs = {"images": folder / "images", "table": folder / "table.csv"} | ({"labels": folder / "labels"} if config.values else {})
        samples[center] = read_all(find_cases(config, inputs), ignore)
    return samples


def is_test(training: Training, center: str, name: str) -> bool:
    """Whether a sample of a center is held out: a fifth of its people of each class, or the whole center."""
    person = int(name.rsplit("_", 1)[1])
    return training.fold == (str(person % FOLDS) if training.validation == "CCV" else center)


def train(training: Training, samples: Mapping[str, list], rounds: int) -> dict[str, float]:
    """Case -> probability that it is hypertrophic, of all cases that were held out."""
    from imagingai.federated.cases import CaseLearner
    from imagingai.federated.classifier import Description
    from imagingai.federated.images import augmentation
    from imagingai.federated.simulate import Pooled, federate

    config = replace(
        PROJECT,
        **CURATIONS[training.curation],
        strategy=METHODS[training.method],
        augmentation=training.augmentation,
        harmonization=training.harmonization,
        seed=training.seed,
        rounds=rounds,
    )

    def open_center(center: str, histogram: list[float] | None) -> CaseLearner:
        own = [sample for sample in samples[center] if not is_test(training, center, sample.name)]
        return CaseLearner(Description(config, histogram=tuple(histogram or ())), own, augmentation(config))

    names = [center for center in CENTERS if training.fold != center]
    sites = {folder_of(center): partial(open_center, center) for center in names}
    if training.method == "CDS":
        sites = {"all": lambda histogram: Pooled([open_center(center, histogram) for center in names])}
    with tempfile.TemporaryDirectory() as folder:
        outcome = federate(config, sites, Path(folder))
        description = Description(config, histogram=tuple(outcome.store.get("survey", {}).get("histogram", ())))
        outcome.store.close()
    held_out = [s for center in CENTERS for s in samples[center] if is_test(training, center, s.name)]
    return predict(config, description, outcome.weights, held_out)


def predict(config: ProjectConfig, description: Any, weights: dict, samples: list) -> dict[str, float]:
    """Case -> probability of the second class."""
    import torch

    from imagingai.federated.learner import build_network

    network = build_network(config).eval()
    network.load_state_dict({**network.state_dict(), **weights})
    with torch.no_grad():
        logits = network(torch.from_numpy(np.stack([description.scale(sample.input) for sample in samples])))
    return dict(zip([sample.name for sample in samples], torch.softmax(logits, 1)[:, 1].tolist(), strict=True))


def train_all(work: Path, part: str, rounds: int) -> None:
    """Every training of this part that is not done yet."""
    begin()
    write_centers(work / "centers")
    number, parts = (int(text) for text in part.split("/"))
    done = {Training(**row["training"]) for row in read_lines(*work.glob("trainings*.jsonl"))}
    missing = [training for training in trainings() if training not in done]
    samples: dict[str, dict[str, list]] = {}
    for training in missing[number - 1 :: parts]:
        if training.curation not in samples:
            samples[training.curation] = read_samples(work, training.curation)
        began = time.process_time()
        found = train(training, samples[training.curation], rounds)
        row = {"training": vars(training), "cpu_seconds": round(time.process_time() - began, 2)}
        add_line(work / f"trainings{number}.jsonl", {**row, "probabilities": {case: round(p, 5) for case, p in found.items()}})


def main() -> None:
    """Train what is missing."""
    arguments = parser(__doc__)
    arguments.add_argument("--part", default="1/1", help="which share of the trainings, for several processes: 1/2 and 2/2")
    arguments.add_argument("--rounds", type=int, default=PROJECT.rounds, help="another number of rounds; take another folder for it")
    given = arguments.parse_args()
    train_all(given.work, given.part, given.rounds)


if __name__ == "__main__":
    main()
