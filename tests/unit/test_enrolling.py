"""What is pinned goes into the inventory, and nothing else in that file changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.enrolling import Introduction, pin
from farm.errors import ConfigError
from farm.inventory import read_inventory

KEY = "SHA256:" + "a" * 43
OTHER = "SHA256:" + "b" * 43
TEXT = """\
# our lab
schema: farm.inventory/1
devices:
  first:          # the oldest
    type: board
    address: ssh://lab@192.0.2.1
    tags: [real]

  second:
      address: ssh://lab@192.0.2.2   # behind the door
      type: board
"""


def introduced(path: Path, name: str, **shown: str) -> Introduction:
    (device,) = read_inventory(path).select((name,))
    return Introduction(device=device, shown=tuple(shown.items()))


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yaml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(("name", "indent"), [("first", 4), ("second", 6)])
def test_one_line_is_added_and_every_other_stays(lab: Path, name: str, indent: int) -> None:
    pin(lab, introduced(lab, name, host_key=KEY))
    line = " " * indent + f"host_key: {KEY}\n"
    assert lab.read_text().replace(line, "", 1) == TEXT
    (device,) = read_inventory(lab).select((name,))
    assert device.option("host_key") == KEY


def test_a_key_that_changed_takes_the_place_of_the_old_one(lab: Path) -> None:
    pin(lab, introduced(lab, "second", host_key=KEY))
    before = lab.read_text()
    pin(lab, introduced(lab, "second", host_key=OTHER))
    assert lab.read_text() == before.replace(KEY, OTHER)


def test_what_is_known_is_no_news(lab: Path) -> None:
    pin(lab, introduced(lab, "first", host_key=KEY))
    assert introduced(lab, "first", host_key=KEY).news == ()
    assert introduced(lab, "first", host_key=OTHER).news == (("host_key", OTHER),)


def test_a_jump_host_is_pinned_with_the_board(lab: Path) -> None:
    lab.write_text(TEXT + "      jump: gate.example\n")
    pin(lab, introduced(lab, "second", jump_host_key=OTHER, host_key=KEY))
    (device,) = read_inventory(lab).select(("second",))
    assert (device.option("jump_host_key"), device.option("host_key")) == (OTHER, KEY)


def test_a_device_in_one_line_is_left_to_the_person(lab: Path) -> None:
    text = "schema: farm.inventory/1\ndevices:\n  b: {type: t, address: 'ssh://lab@192.0.2.1'}\n"
    lab.write_text(text)
    with pytest.raises(ConfigError, match=r"inventory\.yaml:3") as caught:
        pin(lab, introduced(lab, "b", host_key=KEY))
    assert f"host_key: {KEY}" in caught.value.hint
    assert lab.read_text() == text


def test_the_files_mode_stays_and_no_part_is_left(lab: Path) -> None:
    lab.chmod(0o640)
    pin(lab, introduced(lab, "first", host_key=KEY))
    assert lab.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in lab.parent.iterdir() if path.is_file()] == ["inventory.yaml"]


def test_a_pin_that_would_spoil_the_file_is_refused(lab: Path) -> None:
    with pytest.raises(ConfigError):
        pin(lab, introduced(lab, "first", host_key="not a fingerprint"))
    assert lab.read_text() == TEXT


def test_where_the_file_cannot_be_written_the_hint_has_the_line(lab: Path) -> None:
    lab.with_name("inventory.yaml.part").mkdir()  # in the way, also for root
    with pytest.raises(ConfigError) as caught:
        pin(lab, introduced(lab, "first", host_key=KEY))
    assert f"host_key: {KEY}" in caught.value.hint
    assert lab.read_text() == TEXT
