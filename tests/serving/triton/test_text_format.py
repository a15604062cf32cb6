from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from reformer_export.errors import ArtifactError
from reformer_export.serving.triton.text_format import (
    MAX_BYTES,
    Word,
    message_from_text,
    text_from_message,
)

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
WORDS = st.sampled_from(["KIND_CPU", "KIND_GPU", "KIND_AUTO"])


def messages() -> st.SearchStrategy[dict[str, Any]]:
    """Configurations of any values, as far as a few fields of each kind go."""
    tensor = st.fixed_dictionaries(
        {"name": TEXTS, "dims": st.lists(st.integers(-1, 2**40), max_size=3)},
        optional={
            "data_type": st.sampled_from([Word("TYPE_INT64"), Word("TYPE_BF16")]),
            "optional": st.booleans(),
        },
    )
    parameter = st.fixed_dictionaries({"key": TEXTS, "value": st.fixed_dictionaries({"string_value": TEXTS})})
    group = st.fixed_dictionaries(
        {"count": st.integers(1, 99), "kind": WORDS.map(Word)},
        optional={"profile": st.lists(TEXTS, max_size=3)},
    )
    return st.fixed_dictionaries(
        {"name": TEXTS, "max_batch_size": st.integers(0, 2**31 - 1)},
        optional={
            "input": st.lists(tensor, max_size=3),
            "instance_group": st.lists(group, max_size=2),
            "parameters": st.lists(parameter, max_size=2, unique_by=lambda each: each["key"]),
            "model_transaction_policy": st.fixed_dictionaries({"decoupled": st.booleans()}),
        },
    )


REPEATED = ("dims", "profile")


def as_written(value: Any) -> Any:
    """What was read, in the form in which it is written: a field that is not repeated has one value."""
    if not isinstance(value, dict):
        return value
    fields = {name: [as_written(each) for each in values] for name, values in value.items()}
    return {
        name: values if name in REPEATED or isinstance(values[0], dict) else values[0]
        for name, values in fields.items()
        if values
    }


def parse(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@settings(max_examples=40)
@given(messages())
def test_protobuf_reads_what_we_write_and_we_read_what_it_writes(message: dict[str, Any]) -> None:
    ours = text_from_message(message)
    parsed = parse(ours)
    assert parsed.name == message["name"]
    assert [list(each.dims) for each in parsed.input] == [each["dims"] for each in message.get("input", [])]
    texts = [ours, *(text_format.MessageToString(parsed, as_utf8=True, as_one_line=x) for x in (False, True))]
    for text in texts:
        assert parse(text_from_message(as_written(message_from_text("config", text)))) == parsed


def test_the_ways_to_write_a_field() -> None:
    text = """
    name: 'a' "b\\n"  # neighbours are one
    dims: [ 1, -2 ]; dims: 3,
    group < kind: KIND_CPU, ratio: 0.5 >
    parameters: [ { key: "x" value: { string_value: "\\"1\\"" } } ]
    decoupled: true
    """
    assert message_from_text("config", text) == {
        "name": ["ab\n"],
        "dims": [1, -2, 3],
        "group": [{"kind": ["KIND_CPU"], "ratio": [0.5]}],
        "parameters": [{"key": ["x"], "value": [{"string_value": ['"1"']}]}],
        "decoupled": [True],
    }


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "name:",
        'name: "a',
        "a { b: 1",
        "a: [1",
        "a: 1 }",
        "a: {]",
        "= 1",
        "a b: 1",
        "a { " * 50,
        "a" * (MAX_BYTES + 1),
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="expected a model's configuration in protobuf's text format"):
        message_from_text("config.pbtxt", text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        message_from_text(Path("config.pbtxt"), text)
    except ArtifactError:
        return
