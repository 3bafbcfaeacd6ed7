"""What every transport, platform and runtime must do, tried on each of ours."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from farm.errors import CommandTimeout, InfraError, UnsupportedModel, WrongAccelerator
from farm.model import Address, Artifact, Device, Load, Workload
from farm.plugins import find_platform, find_runtime, find_transport
from farm.protocols import Limits, Transport
from farm.workload import read_workload

ADDRESSES = {"local": "local://", "virtual": "virtual://board?seed=1"}
QUICK = Load(min_duration_s=0.01, min_queries=100, warmup_s=0.01)


@pytest.fixture(params=ADDRESSES)
def transport(request: pytest.FixtureRequest) -> Transport:
    address = Address.parse(ADDRESSES[request.param])
    device = Device(name=f"a {request.param}", type="t", address=address)
    return find_transport(address.scheme)(device)


def _artifact(folder: Path, data: bytes, name: str = "file") -> Artifact:
    path = folder / name
    path.write_bytes(data)
    return Artifact.of(path)


class TestTransport:
    def test_a_command_reports_status_and_both_streams(self, transport: Transport) -> None:
        script = "cat; echo out; echo err >&2; exit 7"
        done = transport.run(("sh", "-c", script), timeout_s=30, stdin=b"in ")
        assert (done.returncode, done.stdout, done.stderr) == (7, "in out\n", "err\n")

    def test_arguments_arrive_verbatim(self, transport: Transport) -> None:
        hostile = ("a b", "'", '"', "$(touch pwned)", "`id`", "-n", "new\nline", "ünï", "*", "")
        code = "import json, sys; print(json.dumps(sys.argv[1:]))"
        done = transport.run((sys.executable, "-c", code, *hostile), timeout_s=30)
        assert tuple(json.loads(done.stdout)) == hostile

    def test_a_missing_command_is_status_127(self, transport: Transport) -> None:
        assert transport.run(("no-such-command",), timeout_s=30).returncode == 127

    def test_a_command_that_does_not_end_is_killed(self, transport: Transport) -> None:
        with pytest.raises(CommandTimeout):
            transport.run(("sleep", "60"), timeout_s=0.2)

    def test_files_go_there_and_back_unchanged(self, transport: Transport, tmp_path: Path) -> None:
        data = bytes(range(256)) * 5000
        target = transport.root / "there is a file"
        transport.push(_artifact(tmp_path, data).path, target)
        transport.pull(target, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data

    def test_a_missing_file_is_an_error(self, transport: Transport, tmp_path: Path) -> None:
        with pytest.raises(InfraError):
            transport.pull(transport.root / "nothing", tmp_path / "back")

    def test_an_artifact_is_pushed_once(
        self, transport: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        artifact = _artifact(tmp_path, b"model", "$(touch pwned) \n'.onnx")
        place = transport.install(artifact)
        assert place.name == artifact.sha256
        artifact.path.unlink()  # a second push would have nothing to read
        assert transport.install(artifact) == place

    def test_a_damaged_artifact_on_the_device_is_replaced(
        self, transport: Transport, tmp_path: Path
    ) -> None:
        artifact = _artifact(tmp_path, b"model")
        place = Path(transport.install(artifact))
        place.write_bytes(b"rotten")
        transport.install(artifact)
        assert place.read_bytes() == b"model"

    def test_closing_twice_is_no_error(self, transport: Transport) -> None:
        transport.close()
        transport.close()


class TestPlatform:
    def test_facts_name_the_boot_and_hold_no_empty_value(self, transport: Transport) -> None:
        facts = find_platform(transport.platform)(transport).facts()
        assert "boot_id" in {fact.name for fact in facts}
        assert all(fact.value for fact in facts)

    def test_limits_that_nothing_meets_are_found(self, transport: Transport) -> None:
        platform = find_platform(transport.platform)(transport)
        impossible = Limits(max_temperature_c=-300.0, min_free_bytes=1 << 62, min_battery_pct=101)
        found = [finding for finding in platform.preflight(impossible) if finding.blocking]
        assert found
        assert all(finding.message for finding in found)

    def test_readings_have_units(self, transport: Transport) -> None:
        readings = find_platform(transport.platform)(transport).sample()
        assert readings
        assert all(reading.unit and np.isfinite(reading.value) for reading in readings)

    def test_a_clean_device_has_nothing_to_sweep(self, transport: Transport) -> None:
        assert find_platform(transport.platform)(transport).sweep() == ()


class TestRuntime:
    def test_facts_name_version_and_accelerators(self, transport: Transport) -> None:
        facts = {f.name: f.value for f in find_runtime("ort_python")(transport).facts()}
        assert "cpu" in facts["accelerators"].split(",")
        assert facts["onnxruntime"]

    def test_a_model_infers_every_item_and_is_measured(
        self, transport: Transport, digits: Path
    ) -> None:
        workload = read_workload(digits)
        model = Artifact.of(digits / "int8.onnx")
        deployment = find_runtime("ort_python")(transport).deploy(
            model, workload, accelerator="cpu"
        )
        (logits,) = deployment.infer()
        measured = deployment.measure(QUICK)
        deployment.remove()
        assert logits.values.shape == (900, 10)
        assert len(measured.traces[0].values) >= QUICK.min_queries
        assert (measured.traces[0].values > 0).all()
        assert measured.accelerator == "cpu"
        assert measured.scalars[0].value > 1 << 20
        runs = transport.run(("ls", str(transport.root / "runs")), timeout_s=30)
        assert runs.stdout == ""  # every run removes its own folder

    @pytest.mark.parametrize(
        ("accelerator", "kind"), [("cpu", UnsupportedModel), ("cuda", WrongAccelerator)]
    )
    def test_the_models_faults_are_the_models(
        self, transport: Transport, tmp_path: Path, accelerator: str, kind: type[Exception]
    ) -> None:
        broken = _artifact(tmp_path, b"not a model")
        deployment = find_runtime("ort_python")(transport).deploy(
            broken, Workload(name="w", digest="d"), accelerator=accelerator
        )
        with pytest.raises(kind):
            deployment.measure(QUICK)


class TestLocalDetached:
    """What only a real process shows."""

    @pytest.fixture
    def local(self) -> Transport:
        device = Device(name="here", type="t", address=Address.parse("local://"))
        return find_transport("local")(device)

    def test_it_outlives_the_one_who_started_it_and_is_found_again(self, local: Transport) -> None:
        folder = local.root / "runs" / "one"
        started = local.start(("sh", "-c", "sleep 0.3; echo done; exit 3"), folder=folder)
        found = local.attach(started.id)
        done = found.wait(30)
        started.wait(30)
        assert (done.returncode, done.stdout) == (3, "done\n")

    def test_a_deadline_kills_the_whole_group(self, local: Transport) -> None:
        folder = local.root / "runs" / "two"
        script = "sleep 60 & echo $! > child; wait"
        process = local.start(("sh", "-c", script), folder=folder)
        with pytest.raises(CommandTimeout):
            process.wait(0.5)
        child = int((Path(folder) / "child").read_text())
        while _runs(child):  # the signal is sent, the kernel takes a moment
            time.sleep(0.01)
        ended = local.attach(process.id).poll()
        assert ended is not None
        assert ended.returncode == -signal.SIGKILL


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
