"""What files store beside what the exporter makes of the checkpoint: planted faults, and honest files."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.artifact.manifest import Manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface, load_lucidrains
from reformer_export.checkpoints.checkpoint import Checkpoint
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.low_precision import LowPrecision
from reformer_export.modeling import build_model as build_canonical
from reformer_export.modeling.low_precision import stored_tensors
from reformer_export.parity.constants import ConstantsResult, check_constants
from reformer_export.reference.eager import open_eager
from reformer_export.reference.runs import Eager
from reformer_export.spec import DType
from tests import lucidrains
from tests.configurations import reformer_configs
from tests.export.test_export import WITHOUT_SHRINKING
from tests.hf_models import build_model, config_t
from tests.modeling.test_reformer import HEADS

DTYPES: tuple[DType, ...] = ("float32", "float16", "bfloat16")
INT8 = LowPrecision("int8")
NUMBERS = ("FLOAT", "FLOAT16", "BFLOAT16", "INT8", "INT4")


@dataclasses.dataclass(frozen=True)
class Made:
    """An artifact, and eager of its checkpoint."""

    folder: Path
    manifest: Manifest
    eager: Eager

    def check(self, folder: Path | None = None) -> ConstantsResult:
        return check_constants(folder or self.folder, self.manifest, self.eager)


def make(checkpoint: Checkpoint, out: Path, options: ExportOptions) -> Made:
    out.mkdir()
    manifest = write_artifact(checkpoint, out, options)
    return Made(out, manifest, open_eager(checkpoint.file or checkpoint.folder, manifest))


def make_transformers(root: Path, options: ExportOptions, **more: Any) -> Made:
    config = config_t(initializer_range=0.3, is_decoder=True, hidden_act="relu", **more)
    save_moved(build_model(config, transformers.ReformerModelWithLMHead), root / "checkpoint")
    load = LoadOptions(feed_forward_slices=2)
    return make(load_huggingface(str(root / "checkpoint"), load), root / "out", options)


def save_moved(model: transformers.PreTrainedModel, folder: Path) -> None:
    """`model` with biases and norms that are no zeros and ones, so that each is one of its own."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)


def make_lucidrains(root: Path, options: ExportOptions, **more: Any) -> Made:
    file, config = lucidrains.save_model(root, lucidrains.SMALL | more)
    return make(load_lucidrains(str(file), config, LoadOptions()), root / "out", options)


MADE: dict[str, Callable[[Path], Made]] = {
    **{
        dtype: lambda root, dtype=dtype: make_transformers(root, ExportOptions(dtype, low_precision=INT8))
        for dtype in DTYPES
    },
    "plain": lambda root: make_transformers(root, ExportOptions("bfloat16")),
    "decode": lambda root: make_transformers(
        root,
        ExportOptions(
            "float16",
            runtime_num_hashes=True,
            decode=True,
            low_precision=LowPrecision("int8", ("value", "inner")),
        ),
    ),
    "int4": lambda root: make_transformers(
        root,
        ExportOptions("float16", opset=21, low_precision=LowPrecision("int4", ("outer", "query"))),
        **{"hidden_size": 32, "attention_head_size": 16, "axial_pos_embds_dim": [16, 16]},
    ),
    "lucidrains": lambda root: make_lucidrains(
        root,
        ExportOptions("bfloat16", low_precision=INT8),
        **{"num_mem_kv": 3, "use_rezero": True, "emb_dim": 16, "axial_position_emb": True},
    ),
    "tied layers": lambda root: make_lucidrains(
        root,
        ExportOptions("bfloat16", low_precision=INT8),
        **{"num_mem_kv": 8, "weight_tie": True, "use_scale_norm": True, "ff_activation": "ReLU"},
    ),
    "tied": lambda root: make_lucidrains(
        root, ExportOptions(low_precision=INT8), weight_tie_embedding=True, pkm_layers=[1], pkm_num_keys=33
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    found: dict[str, Made] = {}

    def find(name: str) -> Made:
        if name not in found:
            found[name] = MADE[name](tmp_path_factory.mktemp(name))
        return found[name]

    return find


Plant = Callable[[onnx.ModelProto], None]


def check_planted(made: Made, scratch: Path, plant: Plant, file: str = "model.onnx") -> ConstantsResult:
    """The comparison of a copy of the artifact with a fault in `file`."""
    for name in ("model.onnx", "decode.onnx"):
        if (made.folder / name).exists():
            model = onnx.load(str(made.folder / name))
            if name == file:
                plant(model)
            onnx.save(model, str(scratch / name))
    return made.check(scratch)


def constants_of(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    types = [onnx.TensorProto.DataType.Value(name) for name in NUMBERS]
    return [tensor for tensor in model.graph.initializer if tensor.data_type in types]


def flip(tensor: onnx.TensorProto, byte: int = 0, bits: int = 1) -> None:
    data = bytearray(tensor.raw_data)
    data[byte] ^= bits
    tensor.raw_data = bytes(data)


@pytest.mark.parametrize("name", MADE)
def test_an_honest_file_passes(made: Callable[[str], Made], name: str) -> None:
    result = made(name).check()
    assert result.passed, result.verdict()
    assert result.computed == ()
    assert result.verdict().endswith("constants are bit for bit what the checkpoint gives")
    model = onnx.load(str(made(name).folder / "model.onnx"))
    assert result.compared >= len(constants_of(model))


@pytest.mark.parametrize("name", MADE)
def test_the_last_place_of_every_constant_counts(
    made: Callable[[str], Made], name: str, tmp_path: Path
) -> None:
    def plant(model: onnx.ModelProto) -> None:
        for tensor in constants_of(model):
            flip(tensor)

    sound = made(name).check()
    for file in ["model.onnx"] + ["decode.onnx"] * (name == "decode"):
        result = check_planted(made(name), tmp_path, plant, file)
        names = {each.name for each in result.wrong}
        assert (
            len(names)
            == len(result.wrong)
            == sound.compared // len(list(tmp_path.glob("*.onnx"))) - len(result.computed)
        )
        assert {each.file for each in result.wrong} == {file}
        assert bool(result.computed) == (name == "tied")


@pytest.mark.parametrize("name", ["float16", "int4", "tied layers"])
def test_names_do_not_matter(made: Callable[[str], Made], name: str, tmp_path: Path) -> None:
    """As other versions of the exporter have others."""

    def plant(model: onnx.ModelProto) -> None:
        names = {tensor.name: f"val_{i}" for i, tensor in enumerate(model.graph.initializer)}
        for tensor in model.graph.initializer:
            tensor.name = names[tensor.name]
        for node in model.graph.node:
            node.input[:] = [names.get(each, each) for each in node.input]

    result = check_planted(made(name), tmp_path, plant)
    assert result.passed, result.verdict()


def test_what_is_of_no_checkpoint_is_not_compared(made: Callable[[str], Made]) -> None:
    """Other versions of the exporter have other constants of their own."""
    weights, spec = made("tied").eager.canonical_weights(), made("tied").manifest.spec
    stored = stored_tensors(build_canonical(spec, weights), None, torch.float32)
    layers = [f"encoder.layers.{layer}.attention.self_attention.rotations" for layer in spec.lsh_layers]
    assert {f"{path}.{own}" for path, own, _ in stored} == {*weights, *layers}


def named(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    (tensor,) = (each for each in model.graph.initializer if each.name == name)
    return tensor


def change(name: str, change: Callable[[Any], None]) -> Plant:
    """`change` of the numbers of one constant, in place."""

    def plant(model: onnx.ModelProto) -> None:
        tensor = named(model, name)
        values = onnx.numpy_helper.to_array(tensor).copy()
        change(values)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))

    return plant


def swap(first: str, second: str) -> Plant:
    """Two constants each in the other's place."""

    def plant(model: onnx.ModelProto) -> None:
        one, other = named(model, first), named(model, second)
        one.name, other.name = second, first

    return plant


def read_another(first: str, second: str) -> Plant:
    """What reads the one constant reads the other."""

    def plant(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = [second if name == first else name for name in node.input]

    return plant


def off_by_one(values: Any) -> None:
    values[3, 5] += 1 if values[3, 5] < 0 else -1


def one_percent(values: Any) -> None:
    values[3] *= np.float32(1.01)


def one_sign(values: Any) -> None:
    values.flat[3] = -values.flat[3]


OUTER = "encoder.layers.1.feed_forward.outer.1"
QUERY_KEY = "encoder.layers.1.attention.self_attention.query_key"
FAULTS: dict[str, tuple[Plant, set[str]]] = {
    "a weight off by one": (change(f"{OUTER}.weight", off_by_one), {f"{OUTER}.weight"}),
    "a query off by one": (change(f"{QUERY_KEY}.weight", off_by_one), {f"{QUERY_KEY}.weight"}),
    "a scale of one percent more": (change(f"{OUTER}.scales", one_percent), {f"{OUTER}.scales"}),
    "a bias of another sign": (
        change("encoder.layers.0.feed_forward.inner.1.bias", one_sign),
        {"encoder.layers.0.feed_forward.inner.1.bias"},
    ),
    "a norm's bias of another sign": (
        change("encoder.layer_norm.bias", one_sign),
        {"encoder.layer_norm.bias"},
    ),
    "two layers' weights swapped": (
        swap("encoder.layers.0.feed_forward.inner.0.weight", "encoder.layers.1.feed_forward.inner.0.weight"),
        {f"encoder.layers.{layer}.feed_forward.inner.0.weight" for layer in (0, 1)},
    ),
    "a slice reads another's": (
        read_another(f"{OUTER}.weight", "encoder.layers.1.feed_forward.outer.0.weight"),
        {f"{OUTER}.weight"},
    ),
    "a bias read as the norm's scale": (
        read_another("encoder.layer_norm.weight", "encoder.layer_norm.bias"),
        {"encoder.layer_norm.weight"},
    ),
    "rotations": (
        change("encoder.layers.1.attention.self_attention.rotations", one_sign),
        {"encoder.layers.1.attention.self_attention.rotations"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fault_is_found_and_named(
    made: Callable[[str], Made], dtype: str, fault: str, tmp_path: Path
) -> None:
    plant, expected = FAULTS[fault]
    result = check_planted(made(dtype), tmp_path, plant)
    assert {each.name for each in result.wrong} == expected
    assert {each.file for each in result.wrong} == {"model.onnx"}
    assert result.verdict().startswith(f"FAILED: {len(expected)} of {result.compared} constants are not ")
    assert result.to_dict()["passed"] is False
    assert {each["name"] for each in result.to_dict()["wrong"]} == expected


def test_what_differs_is_told(made: Callable[[str], Made], tmp_path: Path) -> None:
    plant, _ = FAULTS["a weight off by one"]
    (wrong,) = check_planted(made("float32"), tmp_path, plant).wrong
    weight = onnx.numpy_helper.to_array(
        named(onnx.load(str(made("float32").folder / "model.onnx")), f"{OUTER}.weight")
    )
    stored = int(weight[3, 5])
    got = stored + (1 if stored < 0 else -1)
    assert wrong.got == f"1 of 256 numbers differ, most {got} at [3, 5]"
    assert wrong.expected == f"{stored} there, as the exporter stores it"


def test_what_the_checkpoint_has_and_the_file_has_not(made: Callable[[str], Made], tmp_path: Path) -> None:
    bias = "encoder.layers.0.feed_forward.inner.1.bias"

    def plant(model: onnx.ModelProto) -> None:
        (node,) = (node for node in model.graph.node if bias in node.input)
        node.input[:] = node.input[:-1]

    (wrong,) = check_planted(made("plain"), tmp_path, plant).wrong
    assert (wrong.name, wrong.got, wrong.expected) == (bias, "none of its type and size", "bfloat16 [16]")


@st.composite
def export_options(draw: st.DrawFn) -> dict[str, Any]:
    weights = draw(st.sampled_from([None, "int8", "int8"]))
    kept = draw(st.lists(st.sampled_from(["value", "output"]), unique=True))
    return {
        "dtype": draw(st.sampled_from(DTYPES)),
        "external_data_threshold": draw(st.sampled_from([0, 2**27])),
        "low_precision": None if weights is None else LowPrecision(weights, tuple(kept)),
    }


def check_honest(checkpoint: Checkpoint, root: Path, options: dict[str, Any]) -> None:
    result = make(checkpoint, root / "out", ExportOptions(**options)).check()
    assert result.passed, result.verdict()
    assert result.computed == ()


@settings(max_examples=12, deadline=None, phases=WITHOUT_SHRINKING)
@given(
    config=reformer_configs(),
    options=export_options(),
    task=st.sampled_from(sorted(HEADS)),
    moves=st.booleans(),
)
def test_random_models_of_transformers_pass(
    config: transformers.ReformerConfig, options: dict[str, Any], task: str, moves: bool
) -> None:
    if task != "feature-extraction":
        config.is_decoder = task == "text-generation"
    if task == "text-generation":
        config.local_num_chunks_after = config.lsh_num_chunks_after = 0
    with tempfile.TemporaryDirectory() as root:
        folder, model = Path(root, "checkpoint"), build_model(config, HEADS[task])
        if moves:
            save_moved(model, folder)
        else:
            model.save_pretrained(folder)
        slices = next(n for n in (3, 2, 1) if config.feed_forward_size % n == 0)
        loaded = load_huggingface(str(folder), LoadOptions(feed_forward_slices=slices))
        check_honest(loaded, Path(root), options)


@settings(max_examples=4, deadline=None, phases=WITHOUT_SHRINKING)
@given(
    keywords=st.one_of(lucidrains.keyword_arguments(), lucidrains.vector_keyword_arguments()),
    options=export_options(),
    seed=st.integers(0, 2**16),
)
def test_random_models_of_lucidrains_pass(
    keywords: dict[str, Any], options: dict[str, Any], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as root:
        file, config = lucidrains.save_model(Path(root, "checkpoint"), keywords, "Autopadder", seed)
        check_honest(load_lucidrains(str(file), config, LoadOptions()), Path(root), options)


@settings(max_examples=6, deadline=None, phases=WITHOUT_SHRINKING)
@given(
    config=reformer_configs(is_decoder=True, lsh_num_chunks_after=0, local_num_chunks_after=0),
    options=export_options(),
)
def test_random_models_that_decode_pass(config: transformers.ReformerConfig, options: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as root:
        save_moved(build_model(config, HEADS["text-generation"]), Path(root, "checkpoint"))
        loaded = load_huggingface(str(Path(root, "checkpoint")), LoadOptions())
        check_honest(loaded, Path(root), {**options, "decode": True})
