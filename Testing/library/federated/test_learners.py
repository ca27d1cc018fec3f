"""What a site learns from: tables, images with a class, images with structures; their errors; the saved results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from site_data import CLASSES, image_site, table_columns, table_site, write_table

from imagingai.errors import InputError, WeightsError
from imagingai.federated import images
from imagingai.federated.cases import area_under_curve, class_figures, value_figures
from imagingai.federated.classifier import load_classifier, predict
from imagingai.federated.config import NETWORKS, ProjectConfig
from imagingai.federated.images import augmentation, crop
from imagingai.federated.learner import build_network, divide, head_of, open_learner, save_network, seed_of
from imagingai.federated.local import train_locally
from imagingai.federated.segmentation import describe
from imagingai.federated.survey import check_data
from imagingai.uncertainty.config import SegmentConfig
from imagingai.uncertainty.model import load_model
from imagingai.uncertainty.segment import segment
from imagingai.volume import Volume, load, save

FEATURES = ("volume", "thickness")


def roi(**settings) -> ProjectConfig:
    return ProjectConfig(**{"task": "roi-classification", "features": FEATURES, "classes": CLASSES, **settings})


def ages(**settings) -> ProjectConfig:
    return roi(**{"task": "roi-regression", "target": "age", "target_range": (20.0, 90.0), "classes": (), **settings})


def pictures(**settings) -> ProjectConfig:
    return ProjectConfig(**{"task": "image-classification", "classes": CLASSES, "dimension": 2, "patch": (20,), **settings})


def structures(**settings) -> ProjectConfig:
    return ProjectConfig(**{"classes": ("one", "two"), "dimension": 2, "patch": (16,), **settings})


def only(inputs, *names):
    return {name: inputs[name] for name in names}


def fit(learner, project, epochs=40.0):
    train_locally(learner.network, learner, project, round=1, epochs=epochs)
    return learner.network


# --- networks


@pytest.mark.parametrize(("task", "size"), [(task, size) for task, sizes in NETWORKS.items() for size in sizes])
@pytest.mark.parametrize("dimension", [2, 3])
def test_every_network_is_the_same_on_every_machine(task, size, dimension):
    make = {"segmentation": structures, "image-classification": pictures, "roi-classification": roi, "roi-regression": ages}[task]
    project = make(network=size, dimension=dimension, patch=(24,), seed=3)
    network = build_network(project).eval()
    torch.rand(5)
    again = build_network(project).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())
    inputs = torch.zeros(1, 2) if task.startswith("roi") else torch.zeros(1, 1, *[24] * dimension)
    shape = (1, 3, *[24] * dimension) if task == "segmentation" else (1, 1 if task == "roi-regression" else 2)
    assert network(inputs).shape == shape
    head = head_of(network)
    assert len(head) == 2 and network.state_dict()[head[1]].shape == (shape[1],)  # weight and bias of the last layer


def test_another_seed_is_another_start():
    one, two = (build_network(roi(seed=seed)).weight for seed in (3, 4))
    assert not torch.equal(one, two)


def test_normalization_of_a_classifier_is_that_of_the_project():
    kinds = {normalization: build_network(pictures(normalization=normalization)) for normalization in ("instance", "batch")}
    assert not list(kinds["instance"].buffers()) and any("running_mean" in name for name, _ in kinds["batch"].named_buffers())


@pytest.mark.parametrize(
    ("project", "message"),
    [
        (roi(features=()), "--features is empty: roi-classification needs the names of the columns"),
        (roi(classes=("well",)), "--classes well: roi-classification needs two or more different names"),
        (roi(classes=("well", "well")), "two or more different names"),
        (roi(augmentation="basic"), "--augmentation basic changes images, and roi-classification has none"),
        (ages(target_range=()), "--target-range needs a low and a high value"),
        (ages(target_range=(90.0, 20.0)), "--target-range needs a low and a high value"),
        (pictures(patch=(16,)), "--patch 16 is too small: the network needs more than 16 voxels"),
        (pictures(patch=(20, 20, 20)), "--patch 20 20 20: give one number, or 2"),
        (pictures(channels=2, harmonization="nyul"), "--harmonization nyul knows one contrast, and a case has 2 images"),
        (pictures(intensity="ct", harmonization="nyul"), "--harmonization nyul changes the Hounsfield units that --intensity ct keeps"),
        (structures(classes=()), "--classes is empty: segmentation needs the names of the structures"),
        (structures(classes=("one", "One")), "Two structures have the name one"),
        (structures(values=(4,)), "--classes has 2 names, and --values 1 values"),
        (structures(patch=(20,)), "--patch 20 20: give one number, or 2, that are multiples of 8"),
        (structures(augmentation="shape"), "--augmentation shape is for image-classification"),
        (structures(harmonization="nyul"), "--harmonization nyul is for image-classification"),
    ],
)
def test_settings_that_do_not_fit_are_refused(project, message):
    with pytest.raises(InputError, match=message):
        build_network(project)


# --- which cases are held out


def test_held_out_cases_are_the_same_every_time_and_have_all_classes():
    names, groups = [f"p{k:02d}" for k in range(20)], [0] * 16 + [1] * 4
    training, held_out = divide(names, 0.25, groups)
    assert sorted(training + held_out) == list(range(20)) and len(held_out) == 5
    assert [groups[k] for k in held_out].count(1) == 1
    shuffled = list(reversed(range(20)))
    _, other = divide([names[k] for k in shuffled], 0.25, [groups[k] for k in shuffled])
    assert [names[shuffled[k]] for k in other] == [names[k] for k in held_out]


def test_cases_of_a_patient_stay_together(tmp_path):
    """Such as the two time points of a heart (Linardos et al., "Induced priors")."""
    columns = table_columns(24)
    columns["label"] = [CLASSES[k // 2 % 2] for k in range(24)]
    columns["patient"] = [f"heart{k // 2}" for k in range(24)]
    learner = open_learner(roi(), {"table": write_table(tmp_path / "table.csv", columns)})
    held_out = [columns["patient"][k] for k in learner.measured]
    assert len(held_out) == 4 and sorted(held_out)[::2] == sorted(held_out)[1::2]
    assert learner.labels == {"well": 10, "sick": 10}
    found = check_data(roi(), {"table": tmp_path / "table.csv"})
    assert (found["training"], found["held_out"]) == (20, 4)


def test_nothing_is_held_out_if_the_project_says_so(tmp_path):
    learner = open_learner(roi(held_out=0.0), table_site(tmp_path))
    assert (learner.examples, learner.held_out) == (12, 0)
    assert learner.evaluate(learner.network)["loss"] > 0  # of the training cases


def test_single_case_of_a_class_is_learned_from():
    assert divide(["a", "b", "c"], 0.5, [0, 0, 1]) == ([0, 2], [1])


def test_seeds_differ_and_are_the_same_on_every_machine():
    assert seed_of(1, 2, 3) == 1911094848 and seed_of(1, 2, 3) != seed_of(1, 3, 2)


# --- tables


def test_table_is_standardized_by_the_training_cases_of_the_site(tmp_path):
    learner = open_learner(roi(), table_site(tmp_path))
    assert (learner.examples, learner.held_out, learner.labels) == (10, 2, {"well": 5, "sick": 5})
    rows = torch.stack([learner.example(k, seed=0)[0] for k in range(learner.examples)])
    torch.testing.assert_close(rows.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(2))


def test_table_of_excel_is_the_same_table(tmp_path):
    """Semicolons, decimal commas, a byte order mark, file names, empty lines."""
    columns = table_columns()
    plain = open_learner(roi(), {"table": write_table(tmp_path / "plain.csv", columns)})
    for name in FEATURES:
        columns[name] = [str(value).replace(".", ",") for value in columns[name]]
    columns["case"] = [f"{case}.nii.gz" for case in columns["case"]]
    file = write_table(tmp_path / "excel.csv", columns, ";")
    file.write_text(file.read_text() + ";;;;\n\n", encoding="utf-8-sig")
    excel = open_learner(roi(), {"table": file})
    assert all(torch.equal(plain.example(k, 0)[0], excel.example(k, 0)[0]) for k in range(plain.examples))


def test_logistic_regression_learns_the_class(tmp_path):
    project = roi(learning_rate=0.3)
    learner = open_learner(project, table_site(tmp_path, count=40))
    before = learner.evaluate(learner.network)
    after = learner.evaluate(fit(learner, project))
    assert after["loss"] < before["loss"] and after["accuracy"] == 1.0 and after["auc"] == 1.0
    assert set(after) == {"loss", "score", "accuracy", "sensitivity", "specificity", "auc"}


def test_linear_regression_predicts_in_the_unit_of_the_target(tmp_path):
    project = ages(learning_rate=0.1)
    learner = open_learner(project, table_site(tmp_path, count=40))
    figures = learner.evaluate(fit(learner, project))
    assert learner.labels == {} and figures["mae"] < 2.0 and figures["r2"] > 0.9 and figures["score"] == -figures["mae"]


def changed(**cells):
    """The table with one cell of the second row changed."""
    columns = table_columns()
    for column, value in cells.items():
        columns[column][1] = value
    return columns


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"case": ["a", "b"], "label": ["well", "sick"], "volume": [1, 2]}, "no columns 'thickness'; its columns are case, label, volume"),
        ({"name": ["a", "b"]}, "no columns 'case'"),
        (changed(label="ill"), "p01 has the class 'ill', which the project does not know: its classes are well, sick"),
        (changed(label=""), "p01 has nothing in the column 'label'"),
        (changed(volume="large"), "p01 has 'large' in the column 'volume', which is no number"),
        (changed(volume="nan"), "p01 has nan in the column 'volume': fill it in"),
        (changed(thickness=""), "p01 has nothing in the column 'thickness'"),
        (changed(case="p00"), "p00 is 2 times in .*table.csv. Keep one row"),
        (changed(case=""), "Line 3 of .*table.csv has no name of a case"),
        (table_columns(1), "1 case is not enough: a site needs at least 2"),
        (table_columns(0), "0 case is not enough"),
    ],
)
def test_table_that_does_not_fit_is_refused_in_one_sentence(tmp_path, columns, message):
    with pytest.raises(InputError, match=message):
        open_learner(roi(), {"table": write_table(tmp_path / "table.csv", columns)})


def test_table_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="roi-classification needs --table, and it was not given"):
        open_learner(roi(), {})
    with pytest.raises(InputError, match=r"The table .*none.csv cannot be read: No such file"):
        open_learner(roi(), {"table": tmp_path / "none.csv"})
    (tmp_path / "latin.csv").write_bytes("case;label\nMüller;well\n".encode("latin-1"))
    with pytest.raises(InputError, match="is no text in UTF-8"):
        open_learner(roi(), {"table": tmp_path / "latin.csv"})


# --- figures


def test_figures_of_two_classes():
    probability = np.array([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]])
    figures = class_figures(probability, np.array([0, 0, 1, 1]))
    assert figures == {"score": 0.75, "accuracy": 0.75, "sensitivity": 0.5, "specificity": 1.0, "auc": 0.75}


def test_figures_that_need_a_missing_class_are_left_out():
    assert class_figures(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0])) == {"score": 0.5, "accuracy": 0.5, "specificity": 0.5}


def test_figures_of_three_classes_are_means():
    probability = np.eye(3)[[0, 1, 1, 2]]
    figures = class_figures(probability, np.array([0, 1, 2, 2]))
    assert figures["score"] == figures["sensitivity"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert figures["specificity"] == pytest.approx((1 + 2 / 3 + 1) / 3)


def test_ties_count_half_in_the_area_under_the_curve():
    assert area_under_curve(np.array([0.5, 0.5, 0.2]), np.array([True, False, False])) == 0.75


def test_figures_of_values():
    assert value_figures(np.array([1.0, 3.0]), np.array([1.0, 2.0])) == {"score": -0.5, "mae": 0.5, "r2": -1.0}
    assert "r2" not in value_figures(np.array([1.0]), np.array([1.0]))


# --- images with a class


def test_images_are_cropped_and_padded_around_their_middle():
    image = np.arange(1.0, 26).reshape(1, 5, 5, 1)
    np.testing.assert_array_equal(crop(image, (2, 2, 0), (3, 3, 1))[0, ..., 0], [[7, 8, 9], [12, 13, 14], [17, 18, 19]])
    padded = crop(image, (2, 2, 0), (7, 3, 1))[0, ..., 0]
    assert padded.shape == (7, 3) and not padded[[0, -1]].any() and padded[1].tolist() == [2, 3, 4]
    assert not crop(image, (20, 20, 0), (3, 3, 1)).any()


@pytest.mark.parametrize("dimension", [2, 3])
def test_classifier_of_images_learns_and_predicts(tmp_path, dimension):
    inputs = only(image_site(tmp_path, 10, dimension), "images", "table")
    project = pictures(dimension=dimension, learning_rate=0.1, batch=4)
    learner = open_learner(project, inputs)
    assert learner.example(0, 0)[0].shape == (1, *[20] * dimension) and learner.labels == {"well": 4, "sick": 4}
    assert any(not torch.equal(learner.example(0, seed)[0], learner.example(0, 0)[0]) for seed in range(1, 9))  # turned, mirrored
    assert learner.evaluate(fit(learner, project, epochs=30.0))["accuracy"] == 1.0
    learner.save(tmp_path / "model.safetensors", learner.network, {"federation": "Test"})
    model = load_classifier(tmp_path / "model.safetensors")
    rows = predict(model, only(inputs, "images"))  # no table: the class is not known
    assert [row["prediction"] for row in rows] == [CLASSES[k % 2] for k in range(10)]
    assert set(rows[0]) == {"case", "prediction", "well", "sick"} and model.description.about == {"federation": "Test"}


def test_structures_of_an_image_alone_or_each_by_itself(tmp_path):
    """Shape priors of Linardos et al., figure 2: B the masked image, C one channel for each structure."""
    inputs = image_site(tmp_path, 4)
    masked = open_learner(pictures(values=(1, 2), augmentation="none"), inputs).example(0, 0)[0]
    split = open_learner(pictures(values=(1, 2), augmentation="none", channels=2), inputs).example(0, 0)[0]
    assert masked.shape == (1, 20, 20) and split.shape == (2, 20, 20)
    torch.testing.assert_close(split.sum(0), masked[0])
    inside = masked[0] > 0
    assert inside.sum() == 64 and inside[6:14, 6:14].all()  # the block of 8 x 8 is in the middle
    assert (split[0] > 0)[6:10, 6:14].all() and not (split[0] > 0)[10:].any()


def test_images_that_do_not_fit_are_refused_in_one_sentence(tmp_path):
    def refused(message, project=pictures(), **more):
        with pytest.raises(InputError, match=message):
            open_learner(project, {**only(inputs, "images", "table"), **more})

    inputs = image_site(tmp_path / "site", 4)
    refused("image-classification needs --labels", pictures(values=(1, 2)))
    refused("--labels is given, and this project uses the images alone", labels=inputs["labels"])
    refused("p00 has 1 images, and the project learns from 2 for each case", pictures(channels=2))
    refused("The labels of p00 have none of the structures of the project", pictures(values=(7,)), labels=inputs["labels"])
    refused("p04 has a row in more.csv and no image", table=write_table(tmp_path / "more.csv", table_columns(5)))
    refused("p03 has an image and no row in less.csv", table=write_table(tmp_path / "less.csv", table_columns(3)))
    refused(r"p02 has an image and no row in few.csv. \(1 more cases do not fit", table=write_table(tmp_path / "few.csv", table_columns(2)))
    refused("The model works in 3-D and the image is 2-D", pictures(dimension=3))
    refused("p00.nii.gz is 3-D .*, and the project learns from 2-D images", images=image_site(tmp_path / "3d", 4, 3)["images"])
    (inputs["labels"] / "p01.nii.gz").unlink()
    refused("p01 has no labels, and the project needs the structures of every image", pictures(values=(1, 2)), labels=inputs["labels"])
    image = load(inputs["images"] / "p02.nii.gz")
    image.data[0, 3, 3] = np.nan
    save(image, inputs["images"] / "p02.nii.gz")
    refused(r"p02.nii.gz has 1 voxels that are NaN")


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize(("kind", "count"), [("none", 1), ("basic", 3), ("shape", 3), ("shape_intensity", 3)])
def test_augmentation_changes_half_of_the_images_and_follows_from_the_seed(dimension, kind, count):
    image = torch.rand(1, *[20] * dimension, generator=torch.Generator().manual_seed(0))
    change = augmentation(pictures(dimension=dimension, augmentation=kind))
    results = [change(image, seed) for seed in range(60)]
    same = sum(torch.equal(result, image) for result in results)
    assert same == 60 if kind == "none" else 18 <= same <= 42
    assert all(type(result) is torch.Tensor and result.shape == image.shape and torch.isfinite(result).all() for result in results)
    assert all(torch.equal(change(image, seed), results[seed]) for seed in range(60))
    assert len({float(result.sum()) for result in results}) >= count


def test_larger_sets_hold_the_smaller_ones():
    sizes = [len(images._changes(kind, (20, 20))) for kind in ("basic", "shape", "shape_intensity")]
    assert sizes == [3, 4, 8]  # turn, two mirrors; elastic; spikes, bias field, noise, gamma


# --- segmentation


def test_segmentation_learns_and_its_file_segments(tmp_path):
    inputs = image_site(tmp_path, 6)
    project = structures(learning_rate=0.1, batch=4, classes=("left", "other"))
    learner = open_learner(project, only(inputs, "images", "labels"))
    assert (learner.examples, learner.held_out, learner.labels) == (5, 1, {"left": 160, "other": 160})
    assert not describe(project).flip and describe(structures()).flip  # a mirror image has left and right swapped
    before, after = learner.evaluate(learner.network), learner.evaluate(fit(learner, project, epochs=25.0))
    assert after["dice"] > 0.7 > before["dice"] and set(after) == {"loss", "score", "dice", "dice left", "dice other"}
    learner.save(tmp_path / "model.safetensors", learner.network, {"federation": "Test"})
    model = load_model(tmp_path / "model.safetensors")
    found = segment(load(inputs["images"] / "p01.nii.gz"), model, SegmentConfig(device="cpu")).labels.data
    true = load(inputs["labels"] / "p01.nii.gz").data
    assert 2 * ((found == true) & (true > 0)).sum() / ((found > 0).sum() + (true > 0).sum()) > 0.7
    assert model.description.about == {"federation": "Test"} and model.description.values == (0, 1, 2)


@pytest.mark.parametrize("model", ["unet", "dropout", "probabilistic"])
def test_loss_of_a_batch_is_the_mean_of_its_cases(tmp_path, model):
    """So that the gradient of a case can be bounded, and the mean over the sites is that of the pooled data."""
    learner = open_learner(structures(model=model), only(image_site(tmp_path, 4), "images", "labels"))
    network, weights = learner.network.eval(), torch.tensor([0.5, 2.0])
    inputs, targets = (torch.stack(some) for some in zip(*(learner.example(k, k) for k in range(3)), strict=True))

    def loss(which, weights=None):
        torch.manual_seed(0)
        return learner.loss(network, inputs[which], targets[which], weights).detach()

    for some in (None, weights):
        if model != "probabilistic":  # which draws its latent vectors
            torch.testing.assert_close(loss(slice(None), some), sum(loss(slice(k, k + 1), some) for k in range(3)) / 3)
    torch.testing.assert_close(loss(slice(None), torch.ones(2)), loss(slice(None)))
    assert loss(slice(None), weights) != loss(slice(None))


def test_segmentation_leaves_out_images_without_labels(tmp_path):
    inputs = image_site(tmp_path, 5)
    (inputs["labels"] / "p04.nii.gz").unlink()
    assert open_learner(structures(held_out=0.0), only(inputs, "images", "labels")).examples == 4


def test_labels_that_do_not_fit_are_refused(tmp_path):
    inputs = image_site(tmp_path, 4)
    with pytest.raises(InputError, match="segmentation needs --labels"):
        open_learner(structures(), only(inputs, "images"))
    with pytest.raises(InputError, match=r"p00.nii.gz has the label 2, which the model does not know: its labels are 0, 1"):
        open_learner(structures(classes=("one",)), only(inputs, "images", "labels"))
    save(Volume.from_array(np.zeros((9, 9), np.uint8)), inputs["labels"] / "p02.nii.gz")
    with pytest.raises(InputError, match=r"p02.nii.gz \(9, 9, 1\) is on another grid than p02.nii.gz"):
        open_learner(structures(), only(inputs, "images", "labels"))


# --- saved classifiers


@pytest.mark.parametrize("size", ["linear", "mlp"])
@pytest.mark.parametrize("make", [roi, ages])
def test_saved_model_predicts_what_the_learner_does(tmp_path, make, size):
    project, inputs = make(network=size, learning_rate=0.1), table_site(tmp_path, 20)
    learner = open_learner(project, inputs)
    fit(learner, project)
    learner.save(tmp_path / "model.safetensors", learner.network, {"rounds": 3})
    model = load_classifier(tmp_path / "model.safetensors")
    assert model.description.project == project and model.description.about == {"rounds": 3}
    rows = predict(model, inputs)
    learner.measured = list(range(20))
    figures = learner.evaluate(learner.network)
    columns = table_columns(20)
    if make is roi:
        hits = [row["prediction"] == label for row, label in zip(rows, columns["label"], strict=True)]
        assert np.mean(hits) == figures["accuracy"] and rows[0]["well"] + rows[0]["sick"] == pytest.approx(1)
    else:
        errors = [abs(row["prediction"] - age) for row, age in zip(rows, columns["age"], strict=True)]
        assert np.mean(errors) == pytest.approx(figures["mae"], rel=0.02)  # weights are saved in half precision


def test_model_is_used_at_another_site_with_the_features_of_its_own_cases(tmp_path):
    """A scanner that measures everything 30 % larger: known only to those who look at many cases."""
    project, inputs = roi(learning_rate=0.1), table_site(tmp_path, 30)
    learner = open_learner(project, inputs)
    fit(learner, project)
    learner.save(tmp_path / "model.safetensors", learner.network, {})
    columns = table_columns(30, seed=1)
    columns["volume"] = [1.3 * value for value in columns["volume"]]
    other, model = {"table": write_table(tmp_path / "other.csv", columns)}, load_classifier(tmp_path / "model.safetensors")

    def accuracy(**more):
        return np.mean([row["prediction"] == label for row, label in zip(predict(model, other, **more), columns["label"], strict=True)])

    assert accuracy() <= 0.6 and accuracy(own_scale=True) >= 0.9
    few = {"table": write_table(tmp_path / "few.csv", table_columns(9))}
    with pytest.raises(InputError, match=r"none.csv has no cases: there is no row below its header"):
        predict(model, {"table": write_table(tmp_path / "none.csv", table_columns(0))})
    with pytest.raises(InputError, match="9 cases are too few to know the usual features of a site; 10 are needed"):
        predict(model, few, own_scale=True)


def test_aggregator_saves_a_model_without_data(tmp_path):
    project = roi()
    save_network(project, build_network(project), tmp_path / "model.safetensors", {"sites": 2})
    rows = predict(load_classifier(tmp_path / "model.safetensors"), table_site(tmp_path, 12))  # by the features of these cases
    assert len(rows) == 12
    save_network(structures(), build_network(structures()), tmp_path / "segmentation.safetensors", {"sites": 2})
    assert load_model(tmp_path / "segmentation.safetensors").description.about == {"sites": 2}


@pytest.mark.parametrize("normalization", ["instance", "batch"])
def test_saved_classifier_keeps_its_statistics(tmp_path, normalization):
    project = pictures(normalization=normalization)
    learner = open_learner(project, only(image_site(tmp_path, 6), "images", "table"))
    network = fit(learner, project, epochs=2.0)
    learner.save(tmp_path / "model.safetensors", network, {})
    loaded = load_classifier(tmp_path / "model.safetensors").network
    inputs = torch.stack([learner.inputs[k] for k in range(3)])
    torch.testing.assert_close(loaded(inputs), network(inputs).detach(), atol=5e-3, rtol=1e-2)


def test_file_that_is_no_classifier_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"There is no model .*none.safetensors"):
        load_classifier(tmp_path / "none.safetensors")
    save_network(structures(), build_network(structures()), tmp_path / "other.safetensors", {})
    with pytest.raises(WeightsError, match="holds no classifier of this version"):
        load_classifier(tmp_path / "other.safetensors")
