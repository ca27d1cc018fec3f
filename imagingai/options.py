"""`option()`: a dataclass field with help, choices and limits.

A config is a frozen dataclass whose fields are made by `option()`. From it come the command-line
arguments, the Slicer parameters, the tooltips and the checks, so that a choice is typed once.
Standard library only: panels and `--help` work before torch is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from imagingai.errors import InputError

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}  # in words


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[Any] = (),
    limits: tuple[float, float] | None = None,
    unit: str = "",
    combine: bool = False,
    advanced: bool = False,
) -> Any:
    """A dataclass field that knows how to explain and check itself.

    `combine` lets the choices be added up with weights, as in `ncc+0.5*mind`.
    """
    return dataclasses.field(
        default=default,
        metadata={"help": help, "choices": tuple(choices), "limits": limits, "unit": unit, "combine": combine, "advanced": advanced},
    )


def flag(name: str) -> str:
    """The command-line spelling of a field: `step_size` -> `--step-size`."""
    return "--" + name.replace("_", "-")


def parse_sum(text: str, choices: Sequence[str], name: str = "value") -> list[tuple[float, str]]:
    """Read `ncc+0.5*mind` as [(1.0, 'ncc'), (0.5, 'mind')]."""
    terms = []
    for term in text.split("+"):
        weight, _, choice = term.strip().rpartition("*")
        try:
            number = float(weight) if weight else 1.0
        except ValueError:
            raise InputError(f"{flag(name)} {text!r}: {weight!r} is not a weight. Write for example ncc+0.5*mind.") from None
        if choice.strip() not in choices:
            raise InputError(f"{flag(name)} has no choice {choice.strip()!r}. Choose from {', '.join(choices)}.")
        if not 0 < number < float("inf"):
            raise InputError(f"{flag(name)} {text!r}: the weight {weight} must be a positive number.")
        terms.append((number, choice.strip()))
    return terms


def check(config: Any) -> None:
    """Raise `InputError` unless every field of the config has an allowed type and value (call it in `__post_init__`)."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, meta = getattr(config, field.name), field.metadata
        _check_type(field.name, value, hints[field.name])
        values = value if isinstance(value, tuple) else (value,)
        if meta["combine"]:
            parse_sum(value, meta["choices"], field.name)
        elif meta["choices"]:
            for item in values:
                if item not in meta["choices"]:
                    raise InputError(f"{flag(field.name)} has no choice {item!r}. Choose from {', '.join(map(str, meta['choices']))}.")
        if meta["limits"]:
            low, high = meta["limits"]
            for item in values:
                if not low <= item <= high:
                    raise InputError(f"{flag(field.name)} is {item}; it must lie between {low:g} and {high:g}.")


def _check_type(name: str, value: Any, hint: Any) -> None:
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(value, tuple):
            raise InputError(f"{flag(name)} is {value!r}; it must be a list, each {KINDS[item]}.")
        for part in value:
            _check_type(name, part, item)
        return
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{flag(name)} is {value!r}; it must be {KINDS[hint]}.")


def add_arguments(groups: Mapping[bool, argparse._ActionsContainer], config_class: type) -> None:
    """Add one argument per field to groups[is it advanced]. A field that is not given stays absent, so that a preset can fill it."""
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        parser, kind, text = groups[field.metadata["advanced"]], hints[field.name], _help(field)
        common: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text, "dest": field.name}
        if kind is bool:
            parser.add_argument(flag(field.name), action=argparse.BooleanOptionalAction, **common)
        elif typing.get_origin(kind) is tuple:
            parser.add_argument(flag(field.name), nargs="+", type=typing.get_args(kind)[0], metavar="VALUE", **common)
        else:
            parser.add_argument(flag(field.name), type=kind, metavar=kind.__name__.upper(), **common)


def _help(field: dataclasses.Field) -> str:
    meta, parts = field.metadata, [field.metadata["help"]]
    if meta["choices"]:
        parts.append(("One of, or a weighted sum of: " if meta["combine"] else "One of: ") + ", ".join(map(str, meta["choices"])) + ".")
    if meta["limits"]:
        parts.append(f"From {meta['limits'][0]:g} to {meta['limits'][1]:g}{' ' + meta['unit'] if meta['unit'] else ''}.")
    default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return " ".join(parts).replace("%", "%%") + f" Default: {default if default != '' else 'none'}."


def from_dict(config_class: type, values: Mapping[str, Any]) -> Any:
    """Make a config from plain data (arguments, job.json, a CSV row of texts); unknown names and bad values raise `InputError`."""
    hints, known = typing.get_type_hints(config_class), {field.name for field in dataclasses.fields(config_class)}
    for name in values:
        if name not in known:
            raise InputError(f"There is no option {flag(name)}. The options are {', '.join(sorted(map(flag, known)))}.")
    return config_class(**{name: _convert(name, value, hints[name]) for name, value in values.items()})


def _convert(name: str, value: Any, hint: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        parts = value.split() if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            parts = [parts]
        return tuple(_convert(name, part, typing.get_args(hint)[0]) for part in parts)
    if not isinstance(value, str) or hint is str:
        return float(value) if hint is float and isinstance(value, int) and not isinstance(value, bool) else value
    if hint is bool and value.lower() in ("true", "false", "1", "0", "yes", "no"):
        return value.lower() in ("true", "1", "yes")
    try:
        return hint(value) if hint is not bool else value
    except ValueError:
        raise InputError(f"{flag(name)} is {value!r}; it must be {KINDS[hint]}.") from None
