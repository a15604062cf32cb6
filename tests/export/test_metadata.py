"""An exported graph tells nothing of the machine that exported it, only which modules its nodes are of."""

from __future__ import annotations

import getpass
import re
from pathlib import Path

import onnx
import pytest
import torch
import transformers

import reformer_export
from reformer_export.contract import SCOPES_KEY
from reformer_export.export import ExportOptions
from tests.export.test_export import export
from tests.hf_models import config_t, save_model


@pytest.mark.parametrize(
    "options", [ExportOptions(), ExportOptions(dtype="float16", runtime_num_hashes=True)]
)
def test_no_path_and_no_user_is_in_the_file(tmp_path: Path, options: ExportOptions) -> None:
    folder = save_model(tmp_path, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)
    model = export(folder, tmp_path / "out", options)
    data = (tmp_path / "out" / "model.onnx").read_bytes()
    places = {
        Path(reformer_export.__file__).parents[1],
        Path(torch.__file__).parents[1],
        tmp_path,
        Path.home(),
    }
    for word in (*map(str, places), "site-packages", ".py", 'File "', getpass.getuser()):
        assert word.encode() not in data, word
    for initializer in model.graph.initializer:
        initializer.ClearField("raw_data")  # numbers may look like anything
    assert re.findall(rb"/[A-Za-z_.][A-Za-z0-9_.-]+/[A-Za-z_.]", model.SerializeToString()) == []


def test_the_modules_of_each_node_are_kept(tmp_path: Path) -> None:
    folder = save_model(tmp_path, config_t(), transformers.ReformerModel)
    model = export(folder, tmp_path / "out")
    keys = {entry.key for node in model.graph.node for entry in node.metadata_props}
    assert keys == {SCOPES_KEY}
    described = (*model.graph.value_info, *model.graph.input, *model.graph.output, model.graph, model)
    assert [entry.key for value in described for entry in value.metadata_props] == []
    onnx.checker.check_model(model, full_check=True)
