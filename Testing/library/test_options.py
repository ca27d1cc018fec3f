"""A config is typed once; arguments, checks and help come from it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import pytest

from imagingai.errors import InputError
from imagingai.options import add_arguments, check, from_dict, option, parse_sum


@dataclass(frozen=True)
class Config:
    color: str = option("red", "Color of the thing.", choices=("red", "blue"))
    mix: str = option("red", "Colors to mix.", choices=("red", "blue"), combine=True)
    size: float = option(1.0, "Size.", limits=(0.5, 2.0), unit="mm")
    counts: tuple[int, ...] = option((1, 2), "Counts.", limits=(0, 9))
    fast: bool = option(False, "Hurry.", advanced=True)

    def __post_init__(self) -> None:
        check(self)


def test_defaults_are_valid_and_texts_of_a_table_are_converted():
    assert Config() == Config("red", "red", 1.0, (1, 2), False)
    assert from_dict(Config, {"size": "1.5", "counts": "3 4", "fast": "yes"}) == Config(size=1.5, counts=(3, 4), fast=True)
    assert from_dict(Config, {"size": 2, "counts": [5]}) == Config(size=2.0, counts=(5,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"color": "green"}, "--color has no choice 'green'. Choose from red, blue."),
        ({"size": 3.0}, "--size is 3.0; it must lie between 0.5 and 2."),
        ({"size": float("nan")}, "--size is nan; it must lie between 0.5 and 2."),
        ({"size": "big"}, "--size is 'big'; it must be a number."),
        ({"counts": (1, 10)}, "--counts is 10; it must lie between 0 and 9."),
        ({"counts": "1 x"}, "--counts is 'x'; it must be a whole number."),
        ({"fast": "perhaps"}, "--fast is 'perhaps'; it must be true or false."),
        ({"mix": "red+green"}, "--mix has no choice 'green'. Choose from red, blue."),
        ({"mix": "x*red"}, "--mix 'x*red': 'x' is not a weight. Write for example ncc+0.5*mind."),
        ({"mix": "-1*red"}, "--mix '-1*red': the weight -1 must be a positive number."),
        ({"weight": 1}, "There is no option --weight. The options are --color, --counts, --fast, --mix, --size."),
    ],
)
def test_a_bad_value_gives_one_sentence(values, message):
    with pytest.raises(InputError) as error:
        from_dict(Config, values)
    assert str(error.value) == message


def test_weighted_sums_are_read():
    assert parse_sum("red + 0.5*blue", ("red", "blue")) == [(1.0, "red"), (0.5, "blue")]


def test_arguments_come_from_the_config_and_say_choices_limits_and_default():
    parser = argparse.ArgumentParser()
    basic, advanced = parser.add_argument_group("basic"), parser.add_argument_group("advanced")
    add_arguments({False: basic, True: advanced}, Config)
    given = vars(parser.parse_args(["--size", "1.25", "--counts", "4", "5", "--fast"]))
    assert from_dict(Config, given) == Config(size=1.25, counts=(4, 5), fast=True)
    text = " ".join(parser.format_help().split())
    assert "Color of the thing. One of: red, blue. Default: red." in text
    assert "Size. From 0.5 to 2 mm. Default: 1.0." in text
