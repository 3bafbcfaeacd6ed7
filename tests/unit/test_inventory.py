"""The inventory: devices as written, what is refused, and selection."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.errors import ConfigError
from farm.inventory import Inventory, read_inventory
from farm.model import DeviceState
from farm.plugins import find_connection

HEAD = "schema: farm.inventory/1\ndevices:\n"
LAB = f"""{HEAD}
  pc:
    type: desktop
    address: "local:"
    tags: [linux, bench]
    location: shelf 4
    owner: ada
  phone-1: {{type: phone, address: "virtual://phone?seed=1", tags: [bench], host: rack}}
  phone-2: {{type: phone, address: "virtual://phone?seed=2", state: maintenance}}
  phone-3: {{type: phone, address: "virtual://phone?seed=3", state: retired}}
"""


def lab(tmp_path: Path, text: str = LAB) -> Inventory:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    return read_inventory(path)


def test_devices_are_read_as_written_and_in_that_order(tmp_path):
    devices = lab(tmp_path).devices
    assert [device.name for device in devices] == ["pc", "phone-1", "phone-2", "phone-3"]
    pc, phone = devices[:2]
    assert (pc.type, pc.tags, pc.location, pc.owner) == (
        "desktop",
        ("linux", "bench"),
        "shelf 4",
        "ada",
    )
    assert (pc.address.scheme, pc.address.place) == ("local", "")
    assert (phone.address.scheme, phone.address.place) == ("virtual", "phone")
    assert phone.address.option("seed") == "1"
    assert phone.address.option("absent", "7") == "7"


def test_the_state_of_a_device_is_active_unless_told_otherwise(tmp_path):
    states = [device.state for device in lab(tmp_path).devices]
    assert states == [
        DeviceState.ACTIVE,
        DeviceState.ACTIVE,
        DeviceState.MAINTENANCE,
        DeviceState.RETIRED,
    ]


def test_a_device_shares_the_host_of_its_transport_unless_told_otherwise(tmp_path):
    pc, phone, other, _ = lab(tmp_path).devices
    assert pc.host == (find_connection("local").host or "pc")
    assert phone.host == "rack"
    assert other.host == (find_connection("virtual").host or "phone-2")


def test_an_environment_variable_is_put_into_an_address(monkeypatch, tmp_path):
    monkeypatch.setenv("FARM_TEST_SEED", "42")
    text = f'{HEAD}  a: {{type: phone, address: "virtual://phone?seed=${{env:FARM_TEST_SEED}}"}}\n'
    assert lab(tmp_path, text).devices[0].address.option("seed") == "42"


@pytest.mark.parametrize(
    ("device", "complaint", "hint"),
    [
        ("{type: x}", "'address' is missing", ""),
        ('{address: "local:"}', "'type' is missing", ""),
        ('{type: x, address: "locale:"}', "unknown transport 'locale'", "did you mean 'local'?"),
        ("{type: x, address: nowhere}", "address 'nowhere' has no scheme", "write for example"),
        ('{type: x, address: "virtual://[x"}', "address 'virtual://[x' cannot be read", ""),
        ('{type: x, address: "virtual://x?seed"}', "cannot be read", ""),
        ('{type: x, address: "${env:QQ0ZZ9}"}', "variable QQ0ZZ9 is not set", "export QQ0ZZ9"),
        ('{type: x, address: "local:", tag: [a]}', "unknown key 'tag'", "did you mean 'tags'?"),
        ('{type: x, address: "local:", tags: a}', "'tags' must be a list", ""),
        ('{type: x, address: "local:", tags: [1]}', "expected a word, found '1'", 'write "1"'),
        ('{type: x, address: "local:", state: activ}', "unknown state 'activ'", "'active'"),
        ('{type: x, address: "local:", state: "a\\nb"}', "unknown state", ""),
        ("local", "must be a table of keys", ""),
    ],
)
def test_a_device_that_is_wrong_is_refused_on_its_line(device, complaint, hint, refusal):
    found = refusal(read_inventory, f"{HEAD}  first: {device}\n")
    assert complaint in found.text
    assert hint in found.hint
    assert found.line == 3


@pytest.mark.parametrize(
    ("devices", "line", "complaint"),
    [
        ("", 2, "'devices' must be a table of keys"),
        ("  {}", 2, "the inventory has no devices"),
        ('  a: {type: x, address: "local:"}\n  a: {}', 4, "duplicate key 'a'"),
        ('  1: {type: x, address: "local:"}', 3, "expected a word, found '1'"),
        ('  a: {type: x, address: "local:"}\nowner: ada', 4, "unknown key 'owner'"),
    ],
    ids=["none", "empty table", "name twice", "number as name", "key outside a device"],
)
def test_an_inventory_that_is_wrong_is_refused_on_its_line(devices, line, complaint, refusal):
    found = refusal(read_inventory, HEAD + devices)
    assert found.line == line
    assert complaint in found.text


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("virtual://phone?seed=1", "virtual://phone?seed=1"),
        ("local:", "local://"),
        ("local://", "LOCAL://"),
        ("virtual://phone?seed=1&slow=2", "virtual://phone?slow=2&seed=1"),
    ],
)
def test_two_devices_cannot_have_one_address(first, second, refusal):
    found = refusal(
        read_inventory,
        f'{HEAD}  a: {{type: x, address: "{first}"}}\n  b:\n    type: x\n    address: "{second}"\n',
    )
    assert (found.line, found.text) == (6, "'b' has the address of 'a'")


def test_a_transport_whose_extra_is_missing_is_refused_with_the_command_that_installs_it(
    monkeypatch, tmp_path, refusal
):
    folder = tmp_path / "site"
    info = folder / "ghost_transports-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ghost-transports\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[farm.transports]\nghost = ghost_transports:Ghost [usb]\n"
    )
    (folder / "ghost_transports.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.syspath_prepend(folder)
    found = refusal(read_inventory, f'{HEAD}  a: {{type: x, address: "ghost://there"}}\n')
    assert found.line == 3
    assert "'ghost' needs the module 'a_module_that_nobody_has'" in found.text
    assert found.hint == "pip install 'ghost-transports[usb]'"


@pytest.mark.parametrize(
    ("names", "tags", "expected"),
    [
        ((), (), ["pc", "phone-1", "phone-2", "phone-3"]),
        (("phone-2", "pc"), (), ["pc", "phone-2"]),
        ((), ("bench",), ["pc", "phone-1"]),
        ((), ("bench", "linux"), ["pc"]),
        (("phone-1", "phone-2"), ("bench",), ["phone-1"]),
    ],
)
def test_devices_are_selected_by_any_name_and_all_tags(names, tags, expected, tmp_path):
    assert [device.name for device in lab(tmp_path).select(names, tags)] == expected


@pytest.mark.parametrize(
    ("names", "tags", "complaint", "hint"),
    [
        (("phone-11",), (), "has no device 'phone-11'", "did you mean 'phone-1'?"),
        (("pc", "nobody"), (), "has no device 'nobody'", "known: pc, phone-1"),
        ((), ("bensh",), "bensh", "did you mean 'bench'?"),
        ((), ("bench", "linus"), "linus", "did you mean 'linux'?"),
    ],
)
def test_a_selection_of_unknown_words_is_refused_with_the_nearest(
    names, tags, complaint, hint, tmp_path
):
    with pytest.raises(ConfigError) as caught:
        lab(tmp_path).select(names, tags)
    assert complaint in caught.value.message
    assert hint in caught.value.hint


def test_a_selection_of_known_words_that_fits_nothing_is_not_called_misspelt(tmp_path):
    with pytest.raises(ConfigError) as caught:
        lab(tmp_path).select(("phone-2",), ("bench",))
    assert "did you mean" not in caught.value.hint


def test_a_lab_without_tags_says_so(tmp_path):
    with pytest.raises(ConfigError, match="bench") as caught:
        lab(tmp_path, f'{HEAD}  a: {{type: x, address: "local:"}}\n').select((), ("bench",))
    assert caught.value.hint == "none is known here"


def test_the_shipped_examples_are_good_when_they_are_uncommented(tmp_path):
    shipped = Path(__file__).parents[2] / "inventory.yaml"
    head, _, examples = shipped.read_text().partition("  # Boards over SSH")
    entries = [line for line in examples.splitlines() if line.startswith("  #   ") or "-1:" in line]
    lines = [line.replace("  # ", "  ", 1) for line in entries]
    path = tmp_path / "inventory.yaml"
    path.write_text(head + "\n".join(lines) + "\n")
    names = [device.name for device in read_inventory(path).devices]
    assert names[-3:] == ["pi5-1", "orin-1", "wall-1"]
