"""The page at /: the card of each model, and a box to try it. One file; what it knows it asks of /card."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reformer_export.artifact.manifest import Manifest
from reformer_export.runtimes.named_inputs import count_values, example_inputs, least_sizes
from reformer_export.serving.models import ServedModel
from reformer_export.serving.tensors_v2 import datatype_of_input
from reformer_export.spec import LSHAttentionSpec

if TYPE_CHECKING:
    from reformer_export.serving.app import Server

MAX_EXAMPLE_VALUES: Final = 4096
"""Of an example, which is left out where they are more."""
PAGE: Final = Path(__file__).with_name("page.html")


def make_routes(server: Server) -> list[Route]:
    """/ and /card."""

    async def show_page(_request: Request) -> Response:
        text, policy = _read_page()
        headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }
        return Response(text, media_type="text/html", headers=headers)

    async def show_card(_request: Request) -> Response:
        longest = server.options.max_new_tokens
        models = [describe_model(model, longest) for model in server.models.values()]
        return Response(msgspec.json.encode({"models": models}), media_type="application/json")

    return [Route("/", show_page), Route("/card", show_card)]


@functools.cache
def _read_page() -> tuple[str, str]:
    """The page, and the policy that lets nothing but its own script and style run, and it ask nobody else."""
    text = PAGE.read_text(encoding="utf-8")
    sources = {}
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = hashlib.sha256(content.encode()).digest()
        sources[tag] = f"'sha256-{base64.b64encode(digest).decode()}'"
    rules = {
        "default-src": "'none'",
        "script-src": sources["script"],
        "style-src": sources["style"],
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return text, "; ".join(f"{name} {value}" for name, value in rules.items())


def describe_model(model: ServedModel, max_new_tokens: int) -> dict[str, Any]:
    """What the page shows of a model; a line of its card is a name, a value, and "good", "bad" or nothing."""
    facts = model.worker.facts
    writes = model.spec.task == "text-generation"
    lines = [*_describe_origin(model.manifest), *_describe_shape(model.manifest)]
    lines.append(["Weights", f"{_count_bytes(model) / 1e6:,.1f} MB, {model.manifest.precision}", ""])
    if not model.manifest.is_custom:
        lines.append(["Longest", f"{model.max_length:,} tokens", ""])
    if writes:
        steps = facts is not None and facts.decodes
        way = "a step a token, on cached state" if steps else "a whole pass a token (no decode.onnx)"
        lines.append(["Writes by", way, ""])
    lines += _describe_parity(model.manifest)
    lines.append(["Runs on", "nothing yet" if facts is None else facts.description, ""])
    lines += [["Note", note, ""] for note in ([] if facts is None else facts.notes)]
    return {
        "name": model.name,
        "task": model.spec.task,
        "problem": model.problem,
        "writes": writes,
        "example": _make_example(model.manifest),
        "max_new_tokens": min(max_new_tokens, model.max_length),
        "card": lines,
    }


def _describe_origin(manifest: Manifest) -> list[list[str]]:
    source = manifest.source
    name = str(source.get("name") or source.get("checkpoint") or "unknown")
    words = ", ".join(str(source[key]) for key in ("architecture", "kind") if source.get(key))
    text = "none" if manifest.tokenizer is None else manifest.tokenizer.kind
    return [["Source", f"{name} ({words})" if words else name, ""], ["Tokenizer", text, ""]]


def _make_example(manifest: Manifest) -> list[dict[str, Any]] | None:
    """Inputs of the least sizes, as a request has them, for models that take more than token ids."""
    if not (manifest.is_custom or manifest.spec.takes_vectors):
        return None
    sizes = least_sizes(manifest)
    if count_values(manifest, sizes) > MAX_EXAMPLE_VALUES:
        return []
    arrays = example_inputs(manifest, sizes)
    return [
        {
            "name": each.name,
            "shape": list(arrays[each.name].shape),
            "datatype": datatype_of_input(each),
            "data": arrays[each.name].ravel().tolist(),
        }
        for each in manifest.inputs
        if each.name in arrays
    ]


def _describe_shape(manifest: Manifest) -> list[list[str]]:
    spec = manifest.spec
    kinds = ["LSH" if isinstance(layer, LSHAttentionSpec) else "local" for layer in spec.layers]
    counts = " and ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    lines = [["Layers", f"{len(kinds)}: {counts}", ""]]
    if not manifest.is_custom:
        lines.append(["Width", f"{spec.hidden_size:,}, {spec.num_heads} heads of {spec.head_size}", ""])
    if spec.vocab_size:
        lines.append(["Vocabulary", f"{spec.vocab_size:,} ids", ""])
    else:
        lines += [["Takes", str(each), ""] for each in manifest.inputs]
        lines += [["Gives", str(each), ""] for each in manifest.outputs]
    rounds = sorted({layer.num_hashes for layer in spec.layers if isinstance(layer, LSHAttentionSpec)})
    if rounds:
        lines.append(["Hashes", " or ".join(map(str, rounds)), ""])
    return lines


def _describe_parity(manifest: Manifest) -> list[list[str]]:
    """What the comparison found when the artifact was made, and what it loses where that was measured."""
    parity = manifest.parity
    if parity is None:
        return [["Parity", "not compared with the original", ""]]
    error = parity.get("max_pinned_error")
    size = "" if not isinstance(error, float) else f", largest difference {error:.1e}"
    if not parity.get("passed"):
        return [["Parity", f"differs from the original{size}", "bad"]]
    found = f"equals the original{manifest.rounding} in {parity.get('num_cases', 'all')} cases{size}"
    return [["Parity", found, "good"], *([] if manifest.loss is None else [["Loses", manifest.loss, ""]])]


def _count_bytes(model: ServedModel) -> int:
    paths = (model.folder / name for name in model.manifest.files if name.startswith("model.onnx"))
    return sum(path.stat().st_size for path in paths if path.is_file())
