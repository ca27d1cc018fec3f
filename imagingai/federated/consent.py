"""What an invitation means, in plain words, for the person who agrees to it. Standard library only.

What leaves the site is worked out here, at the site, from the settings; nothing that a coordinator writes makes it sound smaller.
"""

from __future__ import annotations

import math

from imagingai.federated.config import ProjectConfig
from imagingai.federated.invitation import SHOWN, Invitation, day_of
from imagingai.federated.keys import fingerprint, spoken
from imagingai.federated.project import TABLES

MANY = 10  # columns that are named


def summary(invitation: Invitation) -> list[tuple[str, str]]:
    """What a person must know before agreeing, as titles and texts; the same in the panel and in the terminal."""
    config = invitation.config
    rows = [
        ("Who asks", f"{config.coordinator}, for the federation {config.name}"),
        ("What for", config.purpose),
        ("Who is invited", f"{invitation.site}, with the key {spoken(invitation.key)}"),
        ("What is learned", _learned(config)),
        ("How", _course(config)),
        ("Leaves in every round", _leaves_often(invitation)),
        ("Leaves once", _leaves_once(config)),
        ("Never leaves", _stays(config)),
        ("Privacy", " ".join(_privacy(config))),
        ("Where it goes", f"{config.address}, encrypted (HTTPS). This computer calls there and takes no calls; its address is seen."),
        ("Who gets the model", "The coordinator and all sites of the federation."),
        ("Valid", f"from {day_of(invitation.created)} to {day_of(invitation.expires)}"),
        ("Key of the coordinator", f"{spoken(fingerprint(invitation.signer))}. Compare it by telephone: it proves who has signed."),
        ("Fingerprint", f"{invitation.fingerprint[:SHOWN]} (of this invitation)"),
    ]
    return [(title, "".join(c if c.isprintable() else " " for c in text)) for title, text in rows]  # nothing that plays with a terminal


def _learned(config: ProjectConfig) -> str:
    classes, axes, columns = ", ".join(config.classes), f"{config.dimension}-D images", _some(config.features)
    what = {
        "segmentation": f"Segmentation of {classes} in {axes}",
        "image-classification": f"Classification of {axes} as {classes}",
        "roi-classification": f"Classification as {classes} from the columns of a table: {columns}",
        "roi-regression": f"Prediction of {config.target} from the columns of a table: {columns}",
    }[config.task]
    return f"{what}. Network: {config.size}."


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:MANY]) + (f" and {len(names) - MANY} more" if len(names) > MANY else "")


def _course(config: ProjectConfig) -> str:
    long = f"about {config.seconds:g} s" if config.seconds else f"{config.epochs:g} x all cases"
    alone = f" At the end this site goes on alone for {config.fine_tune:g} x all cases, for a model of its own." if config.fine_tune else ""
    return (
        f"{config.rounds} rounds. In each, this computer trains ({long}) and sends the changed weights; the aggregator joins those of all "
        f"sites (method {config.strategy}, at least {config.min_sites} sites). {config.held_out:.0%} of the cases only measure.{alone}"
    )


def _leaves_often(invitation: Invitation) -> str:
    numbers = sum(math.prod(shape) for shape in invitation.tensors.values())
    return (
        f"Weights of the network: {len(invitation.tensors)} tensors with {numbers:,} numbers, {_size(invitation.megabytes)}. "
        "With them the numbers of training and of held-out cases, the loss, how good the model was on the held-out cases, how many epochs "
        "were trained and how long they took" + (", and the privacy budget that is spent." if invitation.config.epsilon else ".")
    )


def _size(megabytes: float) -> str:
    return f"{megabytes:.3g} MB" if megabytes >= 0.1 else f"{megabytes * 1000:.3g} kB"


def _leaves_once(config: ProjectConfig) -> str:
    parts = ["how many cases (or voxels) there are of each class"] if config.label_weighting else []
    if config.harmonization == "nyul":
        parts.append("one average histogram of the intensities of this site's images")
    text = "; ".join(parts) or "nothing else"
    return f"{text[0].upper()}{text[1:]}."


def _stays(config: ProjectConfig) -> str:
    layers = {
        "none": "",
        "norm": " The normalization layers of the network stay here, too.",
        "statistics": " The running statistics of the normalization layers stay here, too.",
        "head": " The last layers of the network stay here, too.",
    }[config.private]
    data = "The table" if config.task in TABLES else "Images, labels"
    return (
        f"{data}, names of files and cases, the site's private key.{layers} The aggregator sends numbers only; no program of it runs here."
    )


def _privacy(config: ProjectConfig) -> list[str]:
    """What protects the data, and what does not."""
    return [
        f"Differential privacy: the weights of all rounds together tell at most epsilon {config.epsilon:g} about one case "
        f"(delta {config.delta:g}); the smaller the better, and above about 10 it promises little. "
        "Numbers of cases, losses and scores leave without noise."
        if config.epsilon
        else "No differential privacy: an expert who has the weights of this site may be able to tell that a case was in the training, "
        "or to make out parts of it.",
        "Secure aggregation: the aggregator sees the mean of the weights and scores of all sites, and of this site only the number of its "
        "cases; unless half of the sites help it, or it alters what the sites send to each other. Nobody can sort out the update of a site "
        "that is broken or malicious."
        if config.secure_aggregation
        else "No secure aggregation: the aggregator sees the weights of this site by themselves.",
    ]
