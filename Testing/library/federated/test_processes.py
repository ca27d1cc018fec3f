"""Federations of real processes: what leaves a site, and that kill -9 changes nothing. All faults are in benchmarks/federated."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes in /proc")
sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "federated"))
SMALL = {"rounds": 2, "epochs": 8}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A federation that has ended, and the line of site a, on which all can be read."""
    from harness import federation
    from hostile import opened_line

    with federation(tmp_path_factory.mktemp("unbroken") / "fed", **SMALL) as fed:
        line = opened_line(fed, "a")
        codes = fed.begin().end()
        line.close()
        assert not any(codes.values()), {name: fed.last(name) for name in codes}
        yield fed, line


def test_all_have_the_same_model(unbroken):
    fed, _ = unbroken
    assert len(fed.models()) == 1
    assert fed.rounds() == 2


def test_only_what_was_declared_leaves(unbroken):
    from hostile import check_secrets, declared_only
    from relay import requests

    fed, line = unbroken
    said = [one for opened in line.opened for one in requests(opened.up)]
    assert "4 replies" in declared_only(fed, said)  # two rounds, the measure of the last model, the end
    check_secrets(fed, b"".join(bytes(opened.up) for opened in line.opened))


def test_the_audit_log_of_a_site_tells_what_left(unbroken):
    fed, _ = unbroken
    assert [row["kind"] for row in fed.audit("a", "sent")] == ["train", "train", "evaluate", "finish"]
    assert [row["bytes"] > 0 for row in fed.audit("a", "sent")] == [True, True, False, False]


def test_kill_9_of_a_site_and_of_the_rounds_and_of_the_aggregator_changes_nothing(unbroken, tmp_path):
    from harness import federation

    with federation(tmp_path / "fed", **SMALL) as fed:
        fed.begin().until_state("a", "training")
        fed.kill("a")
        fed.kill("rounds_process")
        fed.join("a")
        fed.until_round(1)
        fed.kill("aggregator")
        time.sleep(1)
        fed.serve(resume=True)
        codes = fed.end()
        assert not any(codes.values()), {name: fed.last(name) for name in codes}
        assert len(fed.models()) == 1
        assert fed.digest() == unbroken[0].digest()
