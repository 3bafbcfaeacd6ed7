"""From a model to an image: places of tensors, own C, what does not fit, and the cache."""

from __future__ import annotations

import ctypes
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from drivers.mcu.arena import ALIGNMENT, Life, arrange, place
from drivers.mcu.building import Built, _read, build_image
from drivers.mcu.folding import fold
from drivers.mcu.image import HEADER_BYTES, Cpu, Header, Target
from drivers.mcu.linking import SOURCES, _undefined
from drivers.mcu.sections import read_elf
from drivers.mcu.source import UnknownSource, parse
from drivers.mcu.toolchain import find_toolchain
from farm.errors import ConfigError, DeployFailed, UnsupportedModel
from farm.model import Artifact
from farm.shell import cache_folder

TARGET = Target(
    cpu=Cpu.CORTEX_M4F,
    slot_address=0x21000000,
    slot_bytes=0x40000,
    ram_address=0x21400000,
    ram_bytes=0x40000,
)

LIVES = st.lists(
    st.tuples(st.integers(1, 300), st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=14
).map(
    lambda rows: [
        Life(name=f"tmp{n}", bytes=size, first=min(a, b), last=max(a, b))
        for n, (size, a, b) in enumerate(rows)
    ]
)


@given(LIVES)
@settings(deadline=None)
def test_tensors_that_are_alive_together_never_overlap(lives: list[Life]) -> None:
    places = place(lives)
    assert set(places) == {life.name for life in lives}
    assert all(offset >= 0 and offset % ALIGNMENT == 0 for offset in places.values())
    for one in lives:
        for other in lives:
            if one is not other and one.meets(other):
                start, end = places[one.name], places[other.name]
                assert start + one.bytes <= end or end + other.bytes <= start


def _source(declarations: str, calls: str, *, after: str = "}\n") -> str:
    return (
        "EMX_NODE_FN void first(const int8_t input0[4], float output[2][3]) {\n}\n\n"
        "EMX_NODE_FN void then(const float input0[2][3], int8_t output[4]) {\n}\n\n"
        "void run(const int8_t x[restrict 4], int8_t y[restrict 4]) {\n"
        f"{declarations}{calls}{after}"
    )


GOOD = ("    float tmp0_a[2][3];\n", "    first(x, tmp0_a);\n    then(tmp0_a, y);\n")


def test_temporaries_become_places_in_an_arena() -> None:
    arranged = arrange(parse(_source(*GOOD), "run"))
    assert arranged.arena_bytes == 24
    assert "float (*tmp0_a)[3] = (float (*)[3])(farm_arena + 0);" in arranged.text
    assert "float tmp0_a[2][3];" not in arranged.text
    assert [life.name for life in arranged.largest_moment()] == ["tmp0_a"]


def test_tensors_one_after_the_other_share_their_place() -> None:
    declarations = "".join(f"    float tmp{n}[2][3];\n    int8_t tmp{n}b[4];\n" for n in range(5))
    calls = "    first(x, tmp0);\n    then(tmp0, tmp0b);\n"
    for n in range(1, 5):
        calls += f"    first(tmp{n - 1}b, tmp{n});\n    then(tmp{n}, tmp{n}b);\n"
    arranged = arrange(parse(_source(declarations, calls), "run"))
    assert arranged.arena_bytes == 32  # one of 24 bytes and one of 4


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("int main(void) {}", "no entry function"),
        (_source(GOOD[0], "    while (1);\n"), "an unknown line"),
        (_source(GOOD[0], "    other(x, tmp0_a);\n"), "an unknown line"),
        (_source("    long tmp0_a[6];\n", GOOD[1]), "unknown type"),
        (_source(GOOD[0] * 2, GOOD[1]), "declared twice"),
        (_source("", GOOD[1]), "not declared"),
        (_source(GOOD[0], "    then(tmp0_a, y);\n"), "read before it is written"),
        (_source(GOOD[0], "    first(x, tmp0_a, y);\n"), "other parameters"),
        (_source("    float tmp0_a[2][2];\n", GOOD[1]), "another size"),
        (_source(*GOOD, after=""), "does not end"),
        (_source(*GOOD, after="}\nint more;\n"), "follows the entry function"),
        (_source(*GOOD).replace("float output[2][3]", "float *output"), "unknown parameter"),
    ],
)
def test_a_source_that_is_not_known_makes_no_program(source: str, complaint: str) -> None:
    with pytest.raises(UnknownSource, match=complaint):
        parse("\n" + source, "run")


@pytest.fixture(scope="module")
def own_c(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The C of every image, as a library for this machine."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.c").write_text(
        '#include "math.h"\n#include "quantized.h"\n'
        "int32_t nearest(float x) { return farm_nearest(x); }\n"
        "float even(float x) { return nearbyintf(x); }\n"
        "float down(float x) { return floorf(x); }\n"
        "float up(float x) { return ceilf(x); }\n"
        "float away(float x) { return roundf(x); }\n"
    )
    command = ["gcc", "-shared", "-fPIC", "-O2", "-std=gnu11", "-ffreestanding", "-Wall"]
    command += ["-Wextra", "-Werror", "-ffp-contract=off", "-fno-math-errno", f"-I{SOURCES}"]
    command += [str(folder / "own.c"), str(SOURCES / "floating.c"), "-o", str(folder / "own.so")]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "own.so"))


def _of(own_c: ctypes.CDLL, name: str, values: np.ndarray) -> np.ndarray:
    function = getattr(own_c, name)
    function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float
    return np.array([function(float(value)) for value in values], np.float32)


@pytest.mark.parametrize(
    ("name", "low", "high", "steps"),
    [
        ("expf", -87, 88, 3), ("logf", 1e-30, 1e30, 3), ("logf", 0.3, 3, 3),
        ("log1pf", -0.9, 5, 4), ("tanhf", -10, 10, 4), ("sqrtf", 1e-40, 1e30, 1),
    ],
)  # fmt: skip
def test_own_functions_are_as_exact_as_floats_can_be(
    own_c: ctypes.CDLL, name: str, low: float, high: float, steps: int
) -> None:
    points = np.linspace(low, high, 20_001).astype(np.float32)
    exact = getattr(np, name.rstrip("f"))(points.astype(np.float64))
    step = np.maximum(np.spacing(np.abs(exact).astype(np.float32)), np.float32(1e-44))
    assert (np.abs(_of(own_c, name, points) - exact) / step).max() <= steps


def test_own_error_function(own_c: ctypes.CDLL) -> None:
    from scipy.special import erf

    points = np.linspace(-5, 5, 4001).astype(np.float32)
    assert np.abs(_of(own_c, "erff", points) - erf(points.astype(np.float64))).max() < 7e-7


def test_own_functions_at_their_edges(own_c: ctypes.CDLL) -> None:
    edges = np.array([np.inf, -np.inf, np.nan, 0.0, -200.0, 200.0], np.float32)
    assert np.array_equal(_of(own_c, "expf", edges)[[0, 1, 3, 4, 5]], [np.inf, 0, 1, 0, np.inf])
    assert np.array_equal(_of(own_c, "tanhf", edges)[[0, 1, 3, 4, 5]], [1, -1, 0, -1, 1])
    assert _of(own_c, "logf", np.array([0.0]))[0] == -np.inf
    for name in ("expf", "logf", "tanhf", "sqrtf", "erff"):
        assert np.isnan(_of(own_c, name, np.array([np.nan])))[0]
    assert np.isnan(_of(own_c, "sqrtf", np.array([-1.0])))[0]


def test_rounding_is_that_of_the_standard(own_c: ctypes.CDLL) -> None:
    points = np.concatenate([np.arange(-600, 600) / 4, [2**22 + 0.5, -(2**23) - 1, 1e20]])
    points = points.astype(np.float32)
    for name, exact in (("even", np.rint), ("down", np.floor), ("up", np.ceil)):
        assert np.array_equal(_of(own_c, name, points), exact(points)), name
    away = np.sign(points) * np.floor(np.abs(points.astype(np.float64)) + 0.5)
    assert np.array_equal(_of(own_c, "away", points), away.astype(np.float32))
    nearest = own_c.nearest
    nearest.argtypes, nearest.restype = [ctypes.c_float], ctypes.c_int32
    near = points[np.abs(points) < 1000]
    assert [nearest(float(point)) for point in near] == np.rint(near).astype(int).tolist()
    assert nearest(1e30) > 1 << 20
    assert nearest(-1e30) < -(1 << 20)


def _save(path: Path, nodes: list[onnx.NodeProto], *, shape: tuple[int | str, ...] = (1, 8),
          inputs: int = 1, constants: tuple[onnx.TensorProto, ...] = ()) -> Artifact:  # fmt: skip
    """A model of some nodes, from x0 to y."""
    fed = [helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, shape) for n in range(inputs)]
    given = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "made", fed, [given], list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())
    return Artifact.of(path)


def _relu(path: Path, **options: object) -> Artifact:
    return _save(path, [helper.make_node("Relu", ["x0"], ["y"])], **options)  # type: ignore[arg-type]


@pytest.fixture
def toolchain(lacks) -> str:  # type: ignore[no-untyped-def]
    try:
        return find_toolchain().name
    except ConfigError:
        lacks("no C compiler for microcontrollers: pip install 'verdict-farm[mcu]'")
        raise


def test_an_image_is_linked_for_its_slot(tmp_path: Path, toolchain: str) -> None:
    model = _relu(tmp_path / "relu.onnx", shape=("batch", 8))
    built = build_image(model, TARGET)
    header = Header.unpack(built.image)
    assert header == built.header
    assert header.cpu == Cpu.CORTEX_M4F
    assert header.base == TARGET.slot_address
    assert (
        header.total_bytes
        == len(built.image)
        == sum(built.sections[part] for part in ("text", "rodata", "data"))
    )
    assert header.entry % 2 == 1
    assert HEADER_BYTES <= header.entry - header.base < len(built.image)
    assert TARGET.ram_address <= header.data_address <= header.bss_address
    assert (header.in_bytes, header.out_bytes) == (32, 32)
    assert (header.data_bytes % 4, header.bss_bytes % 4) == (0, 0)
    assert header.model_sha256.hex() == model.sha256
    assert header.name == "relu"
    assert [(t.name, t.dtype, t.shape) for t in built.inputs] == [("x0", "float32", (1, 8))]
    assert built.elf is not None
    assert read_elf(built.elf).symbols["farm_model"] | 1 == header.entry
    assert "emx-onnx-cgen" in built.tools


@pytest.mark.parametrize("cpu", [cpu for cpu in Cpu if cpu is not Cpu.VIRTUAL])
def test_own_c_compiles_for_every_processor(cpu: Cpu, tmp_path: Path, toolchain: str) -> None:
    tools = find_toolchain()
    (tmp_path / "all.c").write_text(
        '#include "math.h"\n#include "quantized.h"\n#include "string.h"'
    )
    for source in [tmp_path / "all.c", *SOURCES.glob("*.c")]:
        command = [*tools.compile(cpu), "-O2", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
        tools.call([*command, "-c", str(source), "-o", str(tmp_path / "all.o")])


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 no model", b"\x08\x07\x12\x04nope", bytes(range(256)) * 4]
)
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    for cpu in (Cpu.VIRTUAL, Cpu.CORTEX_M4F):
        target = Target(cpu=cpu, slot_address=0, slot_bytes=9999, ram_address=0, ram_bytes=0)
        with pytest.raises(UnsupportedModel, match=r"broken\.onnx.*no ONNX model"):
            build_image(Artifact.of(path), target)


def test_a_truncated_model_is_refused(tmp_path: Path, digits: Path) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes((digits / "int8.onnx").read_bytes()[:3000])
    with pytest.raises(UnsupportedModel):
        build_image(Artifact.of(path), TARGET)


def test_inputs_that_a_board_cannot_be_given_are_refused(tmp_path: Path) -> None:
    two = [helper.make_node("Add", ["x0", "x1"], ["y"])]
    with pytest.raises(UnsupportedModel, match="2 inputs and 1 outputs"):
        build_image(_save(tmp_path / "two.onnx", two, inputs=2), TARGET)
    with pytest.raises(UnsupportedModel, match="free dimensions besides batch: time"):
        build_image(_relu(tmp_path / "free.onnx", shape=("batch", "time")), TARGET)


def test_an_unsupported_operator_is_named(tmp_path: Path, toolchain: str) -> None:
    node = helper.make_node("RandomNormalLike", ["x0"], ["y"])
    with pytest.raises(UnsupportedModel, match="RandomNormalLike") as caught:
        build_image(_save(tmp_path / "random.onnx", [node]), TARGET)
    assert caught.value.hint


def test_a_missing_function_of_c_is_named(tmp_path: Path, toolchain: str) -> None:
    node = helper.make_node("Acosh", ["x0"], ["y"])
    with pytest.raises(UnsupportedModel, match="acoshf"):
        build_image(_save(tmp_path / "acosh.onnx", [node]), TARGET)


def test_complaints_of_both_linkers_name_the_function() -> None:
    gcc = "a.c:(.text.x+0x4): undefined reference to `powf'"
    assert _undefined(f"{gcc}\n{gcc}") == ["powf"]
    assert _undefined("ld.lld: error: undefined symbol: sinf\n>>> referenced by") == ["sinf"]


def test_an_arena_that_does_not_fit_names_its_tensors(tmp_path: Path, toolchain: str) -> None:
    two = [helper.make_node("Relu", ["x0"], ["a"]), helper.make_node("Neg", ["a"], ["y"])]
    model = _save(tmp_path / "wide.onnx", two, shape=(1, 100_000))
    with pytest.raises(DeployFailed, match=r"arena takes 400,000.*137,856 too many") as caught:
        build_image(model, TARGET)
    assert "tmp0_a 400,000" in caught.value.hint


def test_weights_that_do_not_fit_are_found_before_anything_is_generated(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((8, 20_000), np.float32), "wide_weights")
    node = helper.make_node("MatMul", ["x0", "wide_weights"], ["y"])
    model = _save(tmp_path / "heavy.onnx", [node], constants=(weights,))
    with pytest.raises(DeployFailed, match="weights takes 640,124 bytes") as caught:
        build_image(model, TARGET)
    assert "wide_weights" in caught.value.hint


def test_an_image_that_does_not_fit_names_its_sections(tmp_path: Path, toolchain: str) -> None:
    small = Target(
        cpu=Cpu.CORTEX_M4F, slot_address=0, slot_bytes=200, ram_address=0x2000, ram_bytes=99
    )
    with pytest.raises(DeployFailed, match=r"image takes .* the board has 200") as caught:
        build_image(_relu(tmp_path / "relu.onnx"), small)
    assert "text" in caught.value.hint


def test_for_a_virtual_board_the_code_is_the_file(digits: Path) -> None:
    model = Artifact.of(digits / "int8.onnx")
    target = Target(
        cpu=Cpu.VIRTUAL, slot_address=4096, slot_bytes=99_999, ram_address=0, ram_bytes=0
    )
    built = build_image(model, target)
    header = Header.unpack(built.image)
    assert built.image[HEADER_BYTES:] == model.path.read_bytes()
    assert (header.base, header.entry, header.data_bytes, header.bss_bytes) == (0, 0, 0, 0)
    assert (header.in_bytes, header.out_bytes) == (64, 40)
    assert built.elf is None
    assert sum(built.sections.values()) == len(built.image)
    with pytest.raises(DeployFailed, match="too many"):
        build_image(
            model,
            Target(cpu=Cpu.VIRTUAL, slot_address=0, slot_bytes=999, ram_address=0, ram_bytes=0),
        )


def test_builds_are_kept_and_broken_ones_made_again(tmp_path: Path, toolchain: str) -> None:
    model = _relu(tmp_path / "relu.onnx")
    with ThreadPoolExecutor(2) as pool:
        built: list[Built] = list(pool.map(lambda _: build_image(model, TARGET), range(2)))
    assert len({one.image for one in built}) == 1
    assert len({one.elf for one in built}) == 1
    elf = built[0].elf
    assert elf is not None
    folder = elf.parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "built.json",
        "image.bin",
        "image.elf",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "relu.onnx"]
    assert [path.name for path in cache_folder().iterdir()] == ["mcu"]

    written = (folder / "image.bin").stat().st_mtime_ns
    assert build_image(model, TARGET) == built[0]
    assert (folder / "image.bin").stat().st_mtime_ns == written
    (folder / "image.bin").write_bytes(built[0].image[:-1])
    assert build_image(model, TARGET) == built[0]
    for broken in ("{}", "[]", "{", '{"sha256": 1}'):
        (folder / "built.json").write_text(broken)
        assert _read(folder) is None

    assert build_image(model, TARGET, cflags="-Os").elf != elf


def test_wrong_words_of_a_person_are_their_errors(tmp_path: Path, toolchain: str) -> None:
    model = _relu(tmp_path / "relu.onnx")
    with pytest.raises(ConfigError, match="no toolchain 'clang'"):
        build_image(model, TARGET, toolchain="clang")
    with pytest.raises(ConfigError, match="cannot be read"):
        build_image(model, TARGET, cflags="-O3 '")
    with pytest.raises(ConfigError, match="cannot build") as caught:
        build_image(model, TARGET, cflags="-O3 --no-such-flag")
    assert "no-such-flag" in caught.value.evidence[0].text


def test_no_toolchain_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("drivers.mcu.toolchain.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="no C compiler") as caught:
        find_toolchain()
    assert caught.value.hint == "pip install 'verdict-farm[mcu]'"
    with pytest.raises(ConfigError, match="no arm-none-eabi-gcc here"):
        find_toolchain("gcc")


def _node(number: int, kind: str, name: str, parameters: str, *lines: str) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    comment = f"/*\n * Node {number}:\n * OpType: {kind}\n */\n"
    return f"{comment}EMX_NODE_FN void {name}({parameters}) {{\n{body}}}\n\n"


def _dequantised(*calls: str, reads: str = "output[i] = input0[0][0][0][i];") -> str:
    """A pool of four numbers that another node dequantises."""
    shape = "[1][1][1][4]"
    at = "[i0][i1][i2][i3]"
    return (
        "const int x;\n\n"
        + _node(
            0, "DequantizeLinear", "widen", f"const int8_t input0{shape}, const float scale[1], "
            f"const int8_t zero_point[1], float output{shape}",
            f"float dequantized = ((float)input0{at} - (float)zero_point[0]) * (float)scale[0];",
            f"output{at} = (float)dequantized;",
        )
        + _node(1, "AveragePool", "pool", f"const float input0{shape}, float output[4]", reads)
        + f"void run(const int8_t x[restrict 4], float y[restrict 4]) {{\n    float tmp0{shape};\n"
        + "".join(f"    {call};\n" for call in calls)
        + "}\n"
    )  # fmt: skip


WIDEN, POOL = "widen(x, weight1, weight2, tmp0)", "pool(tmp0, y)"


def test_a_dequantised_tensor_with_one_reader_is_folded_into_it() -> None:
    folded = parse(fold(_dequantised(WIDEN, POOL), "run"), "run")
    assert [str(call).strip() for call in folded.calls] == ["pool(x, weight1, weight2, y);"]
    assert arrange(folded).arena_bytes == 0
    read = "(((float)input0[0][0][0][i] - (float)input0_zero[0]) * input0_scale[0])"
    assert f"output[i] = {read};" in folded.head


def test_what_cannot_be_folded_stays_as_it_is() -> None:
    for source in (
        _dequantised(WIDEN, POOL, reads="output[i] = *(const float *)input0;"),
        _dequantised(WIDEN, POOL, reads="output[i] = input0[0][0][0][index[i]];"),
        _dequantised(WIDEN, POOL).replace("OpType: AveragePool", "OpType: Softmax"),
        _dequantised(WIDEN, POOL).replace("- (float)zero_point[0]) *", ") +"),
    ):
        assert fold(source, "run") == source
