"""A federation at its coordinator: project.toml, and the folder beside it with keys, certificates and state. Standard library only."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagingai.errors import InputError
from imagingai.federated.config import NETWORKS, ProjectConfig
from imagingai.options import from_dict

NOT_PART_OF_THE_JOB = ("address", "listen")  # may change while a federation runs
IMAGES, TABLES = ("segmentation", "image-classification"), ("roi-classification", "roi-regression")
ONLY = {  # settings that matter for some tasks only
    "model": ("segmentation",),
    "classes": ("segmentation", "image-classification", "roi-classification"),
    "features": TABLES,
    "target": ("image-classification", *TABLES),
    "target_range": ("roi-regression",),
    "normalization": ("image-classification",),
    **dict.fromkeys(("values", "dimension", "channels", "spacing", "patch", "intensity", "augmentation", "harmonization"), IMAGES),
    "label_weighting": ("segmentation", "image-classification", "roi-classification"),
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "segmentation": {"classes": ("hippocampus",)},
    "image-classification": {"classes": ("healthy", "ill")},
    "roi-classification": {"classes": ("healthy", "ill"), "features": ("left_hippocampus", "right_hippocampus")},
    "roi-regression": {"features": ("left_hippocampus", "right_hippocampus"), "target": "age", "target_range": (20.0, 90.0)},
}
TUNED = {  # what learns well enough to begin with (measured on real hippocampi and chest X-rays), where the default does not
    "segmentation": {"optimizer": "adam", "learning_rate": 0.003, "batch": 4},
    "image-classification": {"optimizer": "adam", "learning_rate": 0.001},
}
HEADINGS = {  # above the setting of this name
    "name": "Who asks, for what, and where",
    "task": "What is learned",
    "strategy": "How it is learned",
    "min_sites": "Who must be there, and for how long the others wait",
    "epsilon": "Privacy and exchange",
}
WIDTH = 110


@dataclass(frozen=True)
class Project:
    """What project.toml says, and where its things are."""

    config: ProjectConfig
    file: Path
    folder: Path

    @property
    def job(self) -> str:
        """SHA-256 of all settings that decide what sites do."""
        return job_of(self.config)

    @property
    def initial(self) -> Path | None:
        """The weights to start from; their name in project.toml is relative to it."""
        return self.file.parent / self.config.initial if self.config.initial else None

    @property
    def hosts(self) -> list[str]:
        """Names and addresses that the server certificate is for."""
        return [host_and_port(self.config.address)[0]]


def job_of(config: ProjectConfig) -> str:
    """SHA-256 of all settings that decide what sites do, the same on every machine."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in NOT_PART_OF_THE_JOB}
    return hashlib.sha256(canonical(settings)).hexdigest()


def canonical(content: dict[str, Any]) -> bytes:
    """The one way to write plain data as JSON, to hash and to sign."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def host_and_port(address: str, name: str = "address") -> tuple[str, int]:
    """`host:port` as its parts, [::1]:8443 as well; raises InputError that names the setting."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})", address)
    if not match or not 0 < int(match[2]) < 65536:
        raise InputError(f"{name} is {address!r}; it must be host:port without https://, for example federation.hospital.org:8443.")
    return match[1].strip("[]"), int(match[2])


def read_project(path: str | Path) -> Project:
    """Read a project.toml; raises InputError with the line and the key."""
    import tomllib  # not in Python 3.10, which has no Flower either

    path = Path(path).absolute()
    try:
        text = path.read_text(encoding="utf-8-sig")  # Notepad's mark of order is none of ours
    except FileNotFoundError:
        raise InputError(f"There is no project {path}. Make one with: imagingai federated new {path.name}.") from None
    except OSError as error:
        raise InputError(f"The project {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InputError(f"The project {path} is not a text in UTF-8. Save it as UTF-8.") from None
    try:
        config = _config(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f'{path}: {_decapitalized(str(error))}. Each setting has one line, as: rounds = 10, or name = "text".') from None
    except InputError as error:
        raise InputError(f"{path}{_line(text, error)}: {re.sub(r'--[a-z-]+', _setting, str(error))}") from None
    return Project(config, path, path.with_name(f"{path.stem}-federation"))


def _config(values: dict[str, Any]) -> ProjectConfig:
    known = [field.name for field in dataclasses.fields(ProjectConfig)]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            way = f"Did you mean {close[0]}?" if close else "`imagingai federated new` writes a file with all settings."
            raise InputError(f"there is no setting {name}. {way}")
    config = from_dict(ProjectConfig, values)
    host_and_port(config.address)
    if config.listen:
        host_and_port(config.listen, "listen")
    return config


def _line(text: str, error: InputError) -> str:
    """`, line 12` of the first setting that the error names."""
    lines = [line.strip().lstrip("[\"' ") for line in text.splitlines()]
    for word in re.findall(r"[\w-]+", str(error)):
        for number, line in enumerate(lines, 1):
            if re.match(rf"({re.escape(word)}|{word.strip('-').replace('-', '_')})[\"'\s]*[=\].]", line):
                return f", line {number}"
    return ""


def _setting(match: re.Match[str]) -> str:
    """--secure-aggregation as it is written in project.toml."""
    return match[0][2:].replace("-", "_")


def _decapitalized(text: str) -> str:
    return text[:1].lower() + text[1:]


def write_template(path: str | Path, task: str) -> None:
    """Write a project.toml for a task with every setting explained; raises InputError if there is a file."""
    path = Path(path)
    if task not in NETWORKS:
        raise InputError(f"--task has no choice {task!r}. Choose from {', '.join(NETWORKS)}.")
    if path.exists():
        raise InputError(f"{path} exists. Choose another name, or edit it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(template(task), encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}. Choose a folder that you may write to.") from None


def template(task: str) -> str:
    """The text of a project.toml for a task."""
    fields = [field for field in dataclasses.fields(ProjectConfig) if task in ONLY.get(field.name, NETWORKS)]
    parts = [f"# A federation for {task}. The sites see all of this, signed, before they join.\n"]
    for field in fields:
        if not field.metadata["advanced"]:
            heading = f"\n# --- {HEADINGS[field.name]} ---\n\n" if field.name in HEADINGS else ""
            parts.append(
                heading + _explained(field, {"task": task, **EXAMPLES[task], **TUNED.get(task, {})}.get(field.name, field.default), task)
            )
    parts.append("\n# --- Advanced: remove the # before a setting to change it ---\n\n")
    parts += [re.sub(r"^(?=\w)", "#", _explained(field, field.default, task), flags=re.M) for field in fields if field.metadata["advanced"]]
    return "".join(parts)


def _explained(field: dataclasses.Field, value: Any, task: str) -> str:
    """A setting with its help, choices and limits in comments above it."""
    meta, text = field.metadata, field.metadata["help"]
    choices = NETWORKS[task] if field.name == "network" else meta["choices"]
    if choices and field.name != "task":
        text += f" One of: {', '.join(map(str, choices))}."
    if meta["limits"]:
        text += f" From {meta['limits'][0]:g} to {meta['limits'][1]:g}{' ' + meta['unit'] if meta['unit'] else ''}."
    if field.name in EXAMPLES[task]:
        text += " This is an example: change it."
    return textwrap.fill(text, WIDTH, initial_indent="# ", subsequent_indent="# ") + f"\n{field.name} = {_toml(value)}\n"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
