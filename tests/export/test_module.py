"""A user's own module as an artifact, against the unpatched module with the artifact's rotations: the worked
examples of docs/your-own-model.md, modules composed at random, and what is said of a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import torch
from torch import nn

import reformer_export
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import MODEL_NAME, Manifest, read_manifest
from reformer_export.custom_spec import CustomSpec
from reformer_export.engine import EngineOptions, build_engine
from tests.engine.real import require_tensorrt_rtx
from tests.export.eager_module import Sessions, run_eager, worst_difference
from tests.lucidrains import require_package
from tests.pages import ROOT, read_python

pytestmark = pytest.mark.slow

ATOL: Final = 1e-4

Draw = Callable[[int, int], dict[str, torch.Tensor]]


def draw_ids(batch: int, length: int) -> dict[str, torch.Tensor]:
    lengths = torch.randint(1, length + 1, (batch, 1))
    mask = torch.arange(length) < lengths
    return {"input_ids": torch.randint(0, 320, (batch, length)), "attention_mask": mask.long()}


def draw_series(batch: int, length: int) -> dict[str, torch.Tensor]:
    return {"series": torch.randn(batch, length, 7)}


def draw_vectors(batch: int, length: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(batch, length, 64), "input_mask": torch.rand(batch, length) < 0.8}


EXAMPLES: Final[dict[str, tuple[int, str, Draw, tuple[int, ...]]]] = {
    "CLASSIFIER": (0, "classifier", draw_ids, (1, 7, 8, 33, 128)),
    "FORECASTER": (1, "forecaster", draw_series, (1, 7, 8, 61, 96)),
    "ONE_LAYER": (2, "layer", draw_vectors, (16, 64, 256)),
}
"""Of the page: its block, the name of the module in it, inputs of a batch and a length, and lengths."""


@dataclass(frozen=True)
class Exported:
    out: Path
    module: nn.Module
    manifest: Manifest


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """The artifact of an example, made once, by the page's own code."""
    require_package()
    done: dict[str, Exported] = {}

    def run(name: str) -> Exported:
        if name not in done:
            block, module, _, _ = EXAMPLES[name]
            folder, page = tmp_path_factory.mktemp(name.lower()), {"__name__": "page"}
            code = read_python(ROOT / "docs" / "your-own-model.md")[block]
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    exec(compile(code, "your-own-model.md", "exec"), page)
            kept: Any = page[module]
            done[name] = Exported(folder / name, kept, read_manifest(folder / name))
        return done[name]

    return run


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_s_example_equals_eager(exported: Callable[[str], Exported], name: str) -> None:
    each, (_, _, draw, lengths) = exported(name), EXAMPLES[name]
    sessions = Sessions(each.out)
    assert sessions.inputs() == {x.name: list(x.shape) for x in each.manifest.inputs}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for length in lengths:
            feeds = draw(1 + length % 3, length)
            expected = run_eager(each.module, each.manifest, **feeds)
            for kind, got in sessions.run(feeds).items():
                assert worst_difference(got, expected) < ATOL, f"{kind}, length {length}"


@pytest.mark.tensorrt
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_engine_of_it_is_built_without_a_gpu(exported: Callable[[str], Exported], name: str) -> None:
    require_tensorrt_rtx()
    each = exported(name)
    record = build_engine(each.out, EngineOptions("tensorrt-rtx", compute_capabilities=("8.9",))).record
    wanted = {
        operator for operator in each.manifest.operators if operator not in ("ResidualNorm", "FinalNorm")
    }
    assert set(record.plugin_layers) == wanted


@pytest.mark.parametrize("seed", [36, 49, 59])
def test_modules_composed_at_random(tmp_path: Path, seed: int) -> None:
    require_package()
    from tests.export.random_modules import examine

    assert examine(seed, tmp_path / "out") < ATOL


# What is said of a module, and what is left as it was


class Result(NamedTuple):
    first: torch.Tensor
    nothing: torch.Tensor | None
    rest: list[torch.Tensor]


class Mixed(nn.Module):
    """Inputs and outputs of many kinds, weights and buffers that are shared, a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        import reformer_pytorch

        self.embedding = nn.Embedding(20, 16)
        self.attention = reformer_pytorch.LSHSelfAttention(16, heads=2, bucket_size=4, n_hashes=2)
        self.again = self.attention
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(
        self,
        batch: dict[str, torch.Tensor],
        static: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        factor: float = 1.0,
    ) -> Result:
        x = self.embedding(batch["ids"]) * self.scale + batch["offsets"] + static[:, None]
        x = self.attention(x, input_mask=mask)
        x = self.again(factor * x)
        return Result(self.head(x), None, [x.mean(1), batch["ids"] + 1])


def mixed_inputs(batch: int, length: int) -> dict[str, Any]:
    inside = {"ids": torch.randint(0, 20, (batch, length)), "offsets": torch.randn(batch, length, 16)}
    return {"batch": inside, "static": torch.randn(batch, 16), "mask": None, "factor": 0.5}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    require_package()
    out = tmp_path_factory.mktemp("mixed") / "out"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = Mixed().eval()
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        inputs = mixed_inputs(2, 16)
        parts, state = dict(module.named_modules()), torch.get_rng_state()
        written = reformer_export.export_module(module, inputs, out, max_length=32, hash_seed=5)
        assert torch.equal(torch.get_rng_state(), state)
    assert dict(module.named_modules()) == parts
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert written.manifest == read_manifest(out)
    return Exported(out, module, written.manifest)


def test_inputs_outputs_and_layers_by_name(mixed: Exported) -> None:
    manifest, spec = mixed.manifest, mixed.manifest.spec
    assert isinstance(spec, CustomSpec)
    assert (manifest.is_custom, spec.task, manifest.dtype) == (True, "custom", "float32")
    assert {each.name: (each.dtype, each.shape) for each in manifest.inputs} == {
        "ids": ("int64", ("batch", "sequence")),
        "offsets": ("float32", ("batch", "sequence", 16)),
        "static": ("float32", ("batch", 16)),
    }
    assert {each.name: (each.dtype, each.shape) for each in manifest.outputs} == {
        "first": ("float32", ("batch", "sequence", 20)),
        "rest_0": ("float32", ("batch", 16)),
        "rest_1": ("int64", ("batch", "sequence")),
    }
    assert [(each.path, each.call) for each in spec.uses] == [("attention", 0), ("attention", 1)]
    assert [layer.hash_seed for layer in spec.layers] == [5, 5]
    assert manifest.rotations_sha256["0"] == manifest.rotations_sha256["1"]
    assert manifest.files == {MODEL_NAME: sha256_of_file(mixed.out / MODEL_NAME)}


def test_it_equals_eager_and_has_tied_weights_once(mixed: Exported) -> None:
    import onnx

    sessions = Sessions(mixed.out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        for batch, length in ((1, 8), (3, 32), (2, 24)):
            inputs = mixed_inputs(batch, length)
            expected = run_eager(mixed.module, mixed.manifest, **inputs)
            for got in sessions.run(inputs["batch"] | {"static": inputs["static"]}).values():
                assert worst_difference(got, expected) < ATOL
    stored = [list(each.dims) for each in onnx.load(str(mixed.out / MODEL_NAME)).graph.initializer]
    assert sorted(shape for shape in stored if 20 in shape and 16 in shape) in (
        [[20, 16]],
        [[16, 20], [20, 16]],
    )


def test_the_same_module_gives_the_same_bytes(mixed: Exported, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        Mixed()
        inputs = mixed_inputs(2, 16)  # the example of the other one, with which both were compared
    reformer_export.export_module(mixed.module, inputs, tmp_path / "out", max_length=32, hash_seed=5)
    names = [MODEL_NAME, "manifest.json"]
    assert [sha256_of_file(tmp_path / "out" / x) for x in names] == [
        sha256_of_file(mixed.out / x) for x in names
    ]


class Squeezed(nn.Module):
    """Another computation for batches of one, and rows of a length that is fixed."""

    def __init__(self) -> None:
        super().__init__()
        from transformers.models.reformer import modeling_reformer

        from tests.hf_models import config_t

        self.attention = modeling_reformer.LSHSelfAttention(config_t())
        self.mix = nn.Linear(24, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attention(x, num_hashes=3)[0]
        return self.mix(y.transpose(1, 2)).mean(2)


def test_sizes_that_the_module_fixes(tmp_path: Path) -> None:
    """A layer that is asked for another number of hashes, too; its seed then draws other rotations."""
    module = Squeezed().eval()
    dims = {"x": {0: torch.export.Dim("rows", min=1, max=7)}}
    written = reformer_export.export_module(
        module, torch.randn(1, 24, 16), tmp_path / "out", output_names=["y"], dynamic_shapes=dims
    )
    spec = written.manifest.spec
    assert isinstance(spec, CustomSpec)
    assert [each.shape for each in spec.inputs] == [("rows", 24, 16)]
    assert [(each.name, each.minimum, each.maximum) for each in spec.dimensions] == [("rows", 1, 7)]
    assert [getattr(layer, "num_hashes", 0) for layer in spec.layers] == [3]
    sessions = Sessions(written.folder)
    for batch in (1, 5):
        x = torch.randn(batch, 24, 16)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            expected = {"y": module(x).numpy()}  # which sets the layer's own seed
        for got in sessions.run({"x": x}).values():
            assert worst_difference(got, expected) < ATOL
