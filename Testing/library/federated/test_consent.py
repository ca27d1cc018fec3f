"""Consent: what the person reads who agrees, and how agreement is given."""

from __future__ import annotations

import dataclasses

import pytest

from imagingai.errors import InputError
from imagingai.federated.config import ProjectConfig
from imagingai.federated.consent import summary
from imagingai.federated.invitation import Invitation, check_accepted


@pytest.fixture
def invitation():
    config = ProjectConfig(
        name="Five clinics",
        coordinator="Dr. Grün, Clinic A, +49 30 1234",
        purpose="Find the hippocampus.",
        address="federation.clinic.org:8443",
        classes=("hippocampus",),
    )
    return Invitation(
        format=1,
        software="ImagingAI",
        flower="1.41.0",
        site="hospital_a",
        key="3f2a91c0" * 8,
        config=config,
        authority="",
        tensors={"conv.weight": (16, 1, 3, 3, 3), "conv.bias": (16,), "head.weight": (2, 16)},
        created="2026-11-21T19:00:00+00:00",
        expires="2026-12-21T20:00:00+01:00",
        signer="ssh-ed25519 AAAA",
    )


def said(invitation, **settings):
    """The summary with other settings, as a dictionary."""
    return dict(summary(dataclasses.replace(invitation, config=dataclasses.replace(invitation.config, **settings))))


def test_the_summary_says_who_asks_what_leaves_and_how_it_is_protected(invitation):
    text = said(invitation)
    assert text["Who asks"] == "Dr. Grün, Clinic A, +49 30 1234, for the federation Five clinics"
    assert text["What for"] == "Find the hippocampus."
    assert text["What is learned"] == "Segmentation of hippocampus in 3-D images. Network: fast."
    assert text["How"].startswith("10 rounds. In each, this computer trains (1 x all cases) and sends the changed weights;")
    assert text["Leaves in every round"].startswith("Weights of the network: 3 tensors with 480 numbers, 1.92 kB. With them the numbers")
    assert text["Leaves once"] == "Nothing else."
    assert text["Never leaves"].startswith("Images, labels, names of files and cases, the site's private key.")
    assert text["Where it goes"].startswith("federation.clinic.org:8443, encrypted (HTTPS).")
    assert text["Privacy"].startswith("No differential privacy:") and "the weights of this site by themselves" in text["Privacy"]
    assert text["Fingerprint"] == f"{invitation.fingerprint[:8]} (of this invitation)"
    assert text["Who is invited"] == f"hospital_a, with the key {'3f2a 91c0 ' * 8}".rstrip()
    assert text["Valid"] == "from 2026-11-21 19:00 UTC to 2026-12-21 19:00 UTC"


def test_the_summary_follows_the_settings(invitation):
    assert "of each class" in said(invitation, label_weighting=True)["Leaves once"]
    assert "histogram" in said(invitation, harmonization="nyul")["Leaves once"]
    assert "normalization layers" in said(invitation, private="norm")["Never leaves"]
    assert "last layers" in said(invitation, private="head")["Never leaves"]
    assert "running statistics" in said(invitation, private="statistics")["Never leaves"]
    assert "480 numbers, 0.96 kB" in said(invitation, exchange="float16")["Leaves in every round"]
    assert "480 numbers, 1.92 kB" in said(invitation, exchange="float16", secure_aggregation=True)["Leaves in every round"]
    assert "about 60 s" in said(invitation, seconds=60.0)["How"]
    assert "goes on alone for 2 x all cases" in said(invitation, fine_tune=2.0)["How"]
    private = said(invitation, epsilon=3.0)["Privacy"]
    assert "epsilon 3 about one case (delta 1e-05)" in private and "leave without noise" in private
    assert "sees the mean of the weights and scores of all sites" in said(invitation, secure_aggregation=True)["Privacy"]
    assert "Nobody can sort out the update of a site that is broken" in said(invitation, secure_aggregation=True)["Privacy"]


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"task": "image-classification", "classes": ("healthy", "ill")}, "Classification of 3-D images as healthy, ill. Network: small."),
        (
            {"task": "roi-classification", "classes": ("healthy", "ill"), "features": ("left", "right")},
            "Classification as healthy, ill from the columns of a table: left, right. Network: linear.",
        ),
        (
            {"task": "roi-regression", "features": tuple("abcdefghijkl"), "target": "age"},
            "Prediction of age from the columns of a table: a, b, c, d, e, f, g, h, i, j and 2 more. Network: linear.",
        ),
    ],
)
def test_the_summary_of_every_task(invitation, settings, sentence):
    assert said(invitation, **settings)["What is learned"] == sentence


def test_the_summary_cannot_play_with_the_terminal(invitation):
    text = said(invitation, purpose="Research\x1b[2J\nNever leaves  all\u202e")
    assert text["What for"] == "Research [2J Never leaves  all "


def test_consent_needs_the_fingerprint(invitation):
    digits = invitation.fingerprint
    way = f"Read it with `imagingai federated show`, and agree with: --accept {digits[:8]}"
    for accept in (digits[:8], digits, digits[:8].upper(), f"{digits[:4]} {digits[4:8]}"):
        check_accepted(invitation, accept)
    for accept in ("", "yes", digits[:7], "0" * 8, f"{digits}0"):
        what = f"--accept {accept} is not the fingerprint of this invitation" if accept else "Nobody has agreed to this invitation"
        with pytest.raises(InputError) as error:
            check_accepted(invitation, accept)
        assert str(error.value) == f"{what}. {way}"
