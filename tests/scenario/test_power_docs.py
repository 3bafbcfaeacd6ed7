"""What the page about power meters says is so: commands, addresses, messages, margins."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer.main

import farm.cli
from farm.inventory import read_inventory
from farm.metering import ENERGY_CONDITIONS, METER_CLASSES
from farm.plugins import find_meter
from farm.policy import read_policy

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "power.md").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = BLOCK.findall(PAGE)
COMMANDS = [
    *re.findall(r"^(?:\$ )?(farm .+)$", "\n".join(text for _, text in BLOCKS), re.MULTILINE),
    *re.findall(r"`(farm (?!\.)[^`\n]+)`", BLOCK.sub("", PAGE)),
]
INVENTORIES = [text for kind, text in BLOCKS if kind == "yaml" and text.startswith("devices:")]
POLICIES = [text for kind, text in BLOCKS if "farm.policy/1" in text]
LITERAL = 6
"""Shorter pieces of a message prove nothing."""


def rows(start: str, end: str) -> list[list[str]]:
    """The cells of the tables between two headlines, without the tables' own heads."""
    lines = PAGE.split(start)[1].split(end)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return [row for row in cells if len(row) > 1 and not set("".join(row)) <= set("-: ")]


def source() -> str:
    """All that the farm can say; a literal that goes on in the next line is one."""
    files = [*(ROOT / "farm").glob("*.py"), *(ROOT / "drivers").rglob("*.py")]
    text = "\n".join(file.read_text() for file in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


def schemes(group: str) -> list[str]:
    return sorted(point.name for point in entry_points(group=group))


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_can_be_given(line: str) -> None:
    command = typer.main.get_command(farm.cli.app)
    words = shlex.split(line.replace("WHY", "why"), comments=True)[1:]
    context = command.make_context("farm", [], resilient_parsing=True)
    while hasattr(command, "resolve_command"):
        _, command, words = command.resolve_command(context, words)
    assert command is not None
    command.make_parser(context).parse_args(words)


@pytest.mark.parametrize("snippet", INVENTORIES)
def test_every_inventory_of_the_page_is_accepted(snippet: str, tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(f"schema: farm.inventory/1\n{snippet}")
    assert any(device.meter for device in read_inventory(path).devices)


@pytest.mark.parametrize("snippet", POLICIES)
def test_every_policy_of_the_page_is_accepted(snippet: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(snippet)
    assert read_policy(path).rules


def test_there_is_something_to_look_at() -> None:
    assert len(COMMANDS) > 20
    assert len(INVENTORIES) > 6
    assert len(POLICIES) == 1


@pytest.mark.parametrize("code", sorted(ENERGY_CONDITIONS))
def test_every_condition_has_an_answer(code: str) -> None:
    table = rows("### What it says", "`farm meter verify` besides")
    answers = [row for row in table if row[0] == f"`{code}`"]
    assert len(answers) == 1
    assert all(answers[0])


def test_the_margins_of_the_page_are_those_of_the_farm() -> None:
    told = {
        row[0].strip("`"): (row[2].split(",")[0], row[3], row[4])
        for row in rows("## 1. What", "## 2. Wiring")
        if row[0].startswith("`")
    }
    assert told == {
        name: (
            f"{100 * kind.gain:g} %",
            f"{100 * kind.same_unit:g} %",
            f"{100 * kind.across_units:g} %" if kind.across_units else "none",
        )
        for name, kind in METER_CLASSES.items()
    }


@pytest.mark.parametrize("scheme", schemes("farm.meters"))
def test_every_meter_has_its_address_and_options(scheme: str) -> None:
    table = rows("## 4. Every meter", "### PPK2, and")
    row = next(row for row in table if f"`{scheme}:" in row[1])
    for option in find_meter(scheme).options:
        assert f"`{option}" in row[2] or f"?{option}=" in row[1], option


def test_every_virtual_meter_is_named() -> None:
    for scheme in schemes("farm.virtual_meters"):
        assert f"`{scheme}:`" in PAGE


def test_every_message_of_the_page_is_one_of_the_farms() -> None:
    said = source()
    tables = rows("`farm meter verify` besides", "## 4. Every meter")
    messages = [row[0] for row in tables if row[0] not in ("message", "what it says")]
    assert len(messages) > 50
    for message in messages:
        pieces = [piece.strip() for piece in message.split("…")]
        for piece in pieces:
            assert len(piece) < LITERAL or piece in said, message


def test_the_meter_of_the_other_page_keeps_the_contract(tmp_path: Path) -> None:
    section = (ROOT / "docs" / "adding-a-driver.md").read_text().split("\n## A meter\n")[1]
    files = re.findall(r"The file `([\w.]+)`[^`\n]*\n\n```python\n(.*?)```", section, re.DOTALL)
    assert [name for name, _ in files] == ["shunt_farm.py", "test_shunt.py"]
    for name, text in files:
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert re.search(r"5 passed", done.stdout), done.stdout[-3000:]
    assert "skipped" not in done.stdout
