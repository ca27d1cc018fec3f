"""`imagingai federated predict`: a saved classifier on new cases."""

from __future__ import annotations

import csv

import pytest
import torch

from imagingai.errors import InputError, WeightsError
from imagingai.federated.classifier import Description, save_classifier, statistics
from imagingai.federated.config import PredictConfig, ProjectConfig
from imagingai.federated.learner import build_network
from imagingai.federated.predict_task import predict_files
from imagingai.job import ignore


@pytest.fixture
def model(tmp_path):
    """A logistic regression that says ill where x is large; it was saved by a site whose x is about 10."""
    project = ProjectConfig(task="roi-classification", classes=("healthy", "ill"), features=("x",))
    network = build_network(project)
    weights = network.state_dict()
    linear = next(name for name in weights if name.endswith("weight"))
    network.load_state_dict({name: torch.tensor([[-2.0], [2.0]]) if name == linear else torch.zeros_like(v) for name, v in weights.items()})
    save_classifier(tmp_path / "model.safetensors", network, Description(project, mean=(10.0,), deviation=(1.0,)), {"federation": "test"})
    return tmp_path / "model.safetensors"


def table(path, values):
    path.write_text("case,x\n" + "".join(f"p{k},{value}\n" for k, value in enumerate(values)))
    return path


def test_every_case_gets_a_class_and_its_probability(model, tmp_path):
    found = predict_files({"model": model, "table": table(tmp_path / "new.csv", [8, 12])}, PredictConfig(), tmp_path, ignore)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["prediction"] for row in rows] == ["healthy", "ill"]
    assert float(rows[1]["ill"]) > 0.99 and abs(float(rows[1]["ill"]) + float(rows[1]["healthy"]) - 1) < 1e-6
    assert "p1" in found["table"] and found["about"] == {"federation": "test"}


def test_another_site_brings_its_own_scale(model, tmp_path):
    values = [100, 102, 104, 106, 108, 112, 114, 116, 118, 120]
    assert statistics([torch.tensor([float(v)]).numpy() for v in values])["mean"] == (110.0,)
    predict_files({"model": model, "table": table(tmp_path / "new.csv", values)}, PredictConfig(own_scale=True), tmp_path, ignore)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["prediction"] for row in rows] == ["healthy"] * 5 + ["ill"] * 5


def test_few_cases_have_no_scale_of_their_own(model, tmp_path):
    with pytest.raises(InputError, match="2 cases are too few to know the usual features of a site; 10 are needed"):
        predict_files({"model": model, "table": table(tmp_path / "new.csv", [8, 12])}, PredictConfig(own_scale=True), tmp_path, ignore)


def test_a_file_that_is_no_classifier_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="There is no model"):
        predict_files({"model": tmp_path / "no.safetensors", "table": table(tmp_path / "new.csv", [1])}, PredictConfig(), tmp_path, ignore)
