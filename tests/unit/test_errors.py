"""The tree of errors: who acts, whether a retry can help, and what a person reads."""

from __future__ import annotations

import re
from itertools import groupby

import pytest

from farm import errors
from farm.errors import (
    WORKLOAD_ERRORS,
    CommandTimeout,
    ConfigError,
    Evidence,
    FarmBug,
    FarmError,
    WorkloadError,
    WrongOutput,
    nearest_hint,
)


def branches(kind: type[FarmError]) -> list[type[FarmError]]:
    """What the tree's own module derives; others may refine a leaf."""
    return [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]


def descendants(kind: type[FarmError]) -> list[type[FarmError]]:
    return [c for child in branches(kind) for c in (child, *descendants(child))]


def drawn_tree() -> dict[str, dict[str, bool]]:
    """Family -> leaf -> transient, as the drawing at the head of the module has it."""
    tree: dict[str, dict[str, bool]] = {}
    for line in (errors.__doc__ or "").splitlines():
        if branch := re.match(r"\s+[|`]-- (\w+) +\S.*?  +(.*)", line):
            family, kinds = branch[1], branch[2]
            tree[family] = {}
        elif re.match(r"\s+\| {20,}", line):
            kinds = line.strip(" |")
        else:
            continue
        leaves = re.findall(r"\b([A-Z]\w+)(\*?)", kinds)
        tree[family] |= {name: bool(star) for name, star in leaves}
    return tree


def test_the_tree_is_as_drawn():
    found = {
        family.__name__: {leaf.__name__: leaf.transient for leaf in branches(family)}
        for family in branches(FarmError)
    }
    assert len(found) == 7
    assert found == drawn_tree()


@pytest.mark.parametrize("kind", descendants(FarmError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_and_the_family_of_its_branch(kind):
    branch = next(c for c in kind.__mro__ if c in FarmError.__subclasses__())
    assert kind.family == branch.family
    assert re.fullmatch(r"[a-z_]+", kind.code)
    assert (kind.__doc__ or "").strip()


def test_no_two_errors_share_a_code_and_no_two_branches_a_family():
    codes = sorted((kind.code, kind.__name__) for kind in descendants(FarmError))
    assert [list(same) for _, same in groupby(codes, lambda pair: pair[0])] == [[c] for c in codes]
    families = [branch.family for branch in FarmError.__subclasses__()]
    assert len(set(families)) == len(families)


def test_every_error_of_a_model_is_found_by_its_code():
    assert list(WORKLOAD_ERRORS.values()) == branches(WorkloadError)
    assert all(kind.code == code for code, kind in WORKLOAD_ERRORS.items())


def test_neither_a_model_nor_a_bug_is_tried_again():
    assert not any(kind.transient for kind in (WorkloadError, FarmBug, ConfigError))
    assert not any(kind.transient for kind in descendants(WorkloadError))


@pytest.mark.parametrize(
    ("device", "expected"),
    [(None, "it ended"), ("", "it ended"), ("phone-3", "phone-3: it ended")],
)
def test_an_error_reads_as_its_message_after_the_device_concerned(device, expected):
    assert str(CommandTimeout("it ended", device=device)) == expected


def test_an_error_keeps_hint_and_exhibits():
    exhibit = Evidence(name="stderr", text="boom")
    error = WrongOutput("NaN", hint="look at the scales", evidence=iter([exhibit]))
    assert (error.message, error.hint, error.evidence) == ("NaN", "look at the scales", (exhibit,))


@pytest.mark.parametrize(
    ("name", "choices", "otherwise", "expected"),
    [
        ("alfa", ["alpha", "blocks"], "", "did you mean 'alpha'?"),
        ("alfa", ["alpha", "blocks"], "read the manual", "did you mean 'alpha'?"),
        ("zzz", ["blocks", "alpha"], "", "known: alpha, blocks"),
        ("zzz", ["blocks", "alpha"], "read the manual", "read the manual"),
        ("zzz", [], "", "none is known here"),
        ("", ["blocks"], "", "known: blocks"),
    ],
)
def test_a_hint_names_the_nearest_word_or_all_of_them(name, choices, otherwise, expected):
    assert nearest_hint(name, iter(choices), otherwise=otherwise) == expected
