"""project.toml: the written template is readable, and what is wrong in an edited one is named with its line."""

from __future__ import annotations

import dataclasses

import pytest
import tomllib

from imagingai.errors import InputError
from imagingai.federated.config import NETWORKS, ProjectConfig
from imagingai.federated.project import Project, canonical, host_and_port, job_of, read_project, template, write_template


def fails_with(function, *arguments):
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)


@pytest.fixture
def error_in(tmp_path):
    """The error of a project with these lines below the name, without the path of the file."""

    def read(*lines):
        (tmp_path / "project.toml").write_text("\n".join(['name = "Ours"', *lines]))
        return fails_with(read_project, tmp_path / "project.toml").removeprefix(f"{tmp_path}/project.toml")

    return read


@pytest.mark.parametrize("task", NETWORKS)
def test_a_template_is_a_project(task, tmp_path):
    write_template(tmp_path / "new" / "study.toml", task)
    project = read_project(tmp_path / "new" / "study.toml")
    changed = {field.name for field in dataclasses.fields(ProjectConfig) if getattr(project.config, field.name) != field.default}
    assert project.config.task == task
    examples, tuned = {"classes", "features", "target", "target_range"}, {"optimizer", "learning_rate", "batch"}
    assert changed - {"task"} <= examples | tuned
    assert project.folder == tmp_path / "new" / "study-federation"


@pytest.mark.parametrize("task", NETWORKS)
def test_a_template_says_what_can_be_set_and_the_advanced_settings_still_can(task):
    text = template(task)
    whole = tomllib.loads("\n".join(line.removeprefix("#") if line[:2] != "# " else line for line in text.splitlines()))
    from_task = {field.name for field in dataclasses.fields(ProjectConfig)} - set(whole)
    assert ProjectConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in whole.items()})
    assert from_task <= {
        *("features", "target", "target_range", "normalization", "values", "model", "classes", "label_weighting"),
        *("dimension", "channels", "spacing", "patch", "intensity", "augmentation", "harmonization"),
    }
    for field in dataclasses.fields(ProjectConfig):
        if field.name in whole:
            assert f"\n{'#' if field.metadata['advanced'] else ''}{field.name} = " in text
    assert (
        text.index("\nname =") < text.index("\ntask =") < text.index("\nrounds =") < text.index("--- Advanced") < text.index("\n#listen =")
    )
    assert "# Exchanges of weights. From 1 to 10000.\nrounds = 10\n" in text
    assert f"One of: {', '.join(NETWORKS[task])}.\nnetwork" in text


def test_a_template_never_replaces_a_file(tmp_path):
    write_template(tmp_path / "project.toml", "segmentation")
    text = fails_with(write_template, tmp_path / "project.toml", "segmentation")
    assert text == f"{tmp_path}/project.toml exists. Choose another name, or edit it."
    text = fails_with(write_template, tmp_path / "other.toml", "detection")
    assert text == f"--task has no choice 'detection'. Choose from {', '.join(NETWORKS)}."
    (tmp_path / "file").touch()
    text = fails_with(write_template, tmp_path / "file" / "project.toml", "segmentation")
    assert text == f"Cannot write {tmp_path}/file/project.toml: File exists. Choose a folder that you may write to."


def test_a_project_of_notepad(tmp_path):
    """With a byte order mark, Windows line ends and letters of other languages."""
    (tmp_path / "studie.toml").write_bytes('\ufeffname = "Fünf Kliniken"\r\nrounds = 3\r\n'.encode())
    assert read_project(tmp_path / "studie.toml").config == ProjectConfig(name="Fünf Kliniken", rounds=3)


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("rounds = 0", "rounds is 0; it must lie between 1 and 10000."),
        ('rounds = "many"', "rounds is 'many'; it must be a whole number."),
        ("round = 3", "there is no setting round. Did you mean rounds?"),
        ("colour = 3", "there is no setting colour. `imagingai federated new` writes a file with all settings."),
        ('strategy = "average"', "strategy has no choice 'average'. Choose from fedavg, equal, fedsgd"),
        ('network = "mlp"', "network mlp is none of segmentation. Choose from fast, light, unet."),
        ("label-weighting = true", "there is no setting label-weighting. Did you mean label_weighting?"),
        ('address = "https://here.org"', "address is 'https://here.org'; it must be host:port without https://, for example"),
        ('listen = "8443"', "listen is '8443'; it must be host:port without https://, for example federation.hospital.org:8443."),
        ("[rounds]\nnumber = 3", "rounds is {'number': 3}; it must be a whole number."),
        ("learning_rate = nan", "learning_rate is nan; it must lie between 1e-07 and 10."),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_its_line(error_in, line, sentence):
    assert error_in("", line).startswith(f", line 3: {sentence}")


def test_settings_that_exclude_each_other_are_named_as_in_the_file(error_in):
    assert error_in('strategy = "krum"', "secure_aggregation = true").startswith(
        ", line 3: secure_aggregation shows the aggregator only the sum of the updates, and strategy krum looks at single sites."
    )


def test_what_is_no_toml(error_in, tmp_path):
    way = 'Each setting has one line, as: rounds = 10, or name = "text".'
    assert error_in("rounds = ten") == f": invalid value (at line 2, column 10). {way}"
    assert error_in("rounds = 3", "rounds = 4") == f": cannot overwrite a value (at end of document). {way}"
    (tmp_path / "project.toml").write_bytes('name = "Fünf"'.encode("latin-1"))
    text = fails_with(read_project, tmp_path / "project.toml")
    assert text == f"The project {tmp_path}/project.toml is not a text in UTF-8. Save it as UTF-8."


def test_a_project_that_is_not_there(tmp_path):
    text = fails_with(read_project, tmp_path / "project.toml")
    assert text == f"There is no project {tmp_path}/project.toml. Make one with: imagingai federated new project.toml."
    assert fails_with(read_project, tmp_path) == f"The project {tmp_path} cannot be read: Is a directory."


def test_the_job_is_all_that_decides_what_sites_do(tmp_path):
    def job(**settings):
        return Project(ProjectConfig(**settings), tmp_path / "project.toml", tmp_path).job

    assert job() == job(address="elsewhere.org:1", listen="0.0.0.0:2") == job_of(ProjectConfig())
    others = {job(rounds=11), job(epsilon=1.0), job(seed=1), job(purpose="Something else"), job(classes=("a",)), job(private="norm")}
    assert len(others) == 6 and job() not in others
    assert canonical({"b": 1, "a": [1.0, "ü"]}) == '{"a":[1.0,"ü"],"b":1}'.encode()


def test_the_initial_weights_are_beside_the_project(tmp_path):
    project = Project(ProjectConfig(initial="start.safetensors"), tmp_path / "project.toml", tmp_path)
    assert project.initial == tmp_path / "start.safetensors"
    assert dataclasses.replace(project, config=ProjectConfig()).initial is None


@pytest.mark.parametrize(
    "address, parts",
    [
        ("a.org:8443", ("a.org", 8443)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_addresses(address, parts):
    assert host_and_port(address) == parts


@pytest.mark.parametrize("address", ["", "a.org", "a.org:", "a.org:0", "a.org:65536", "http://a.org:80", "a.org:80/x", "::1:80", "a b:80"])
def test_what_is_no_address(address):
    assert fails_with(host_and_port, address).startswith(f"address is {address!r}; it must be host:port")
