"""What becomes of each field of a Reformer's config.json: honoured, without effect, or refused.

Every field of `transformers.ReformerConfig` is in exactly one table; a test compares them, so a field that
a later `transformers` adds is looked at before it is exported. A key in no table is one that `transformers`
stores and never reads; it is listed in the checkpoint's source as ignored.
"""

from __future__ import annotations

from typing import Any, Final

HONOURED: Final = frozenset(
    {
        "model_type",
        "architectures",
        "vocab_size",
        "hidden_size",
        "hidden_act",
        "layer_norm_eps",
        "feed_forward_size",
        "num_attention_heads",
        "attention_head_size",
        "attn_layers",
        "num_hidden_layers",
        "is_decoder",
        "pad_token_id",
        "max_position_embeddings",
        "axial_pos_embds",
        "axial_pos_shape",
        "axial_pos_embds_dim",
        "local_attn_chunk_length",
        "local_num_chunks_before",
        "local_num_chunks_after",
        "lsh_attn_chunk_length",
        "lsh_num_chunks_before",
        "lsh_num_chunks_after",
        "num_hashes",
        "num_buckets",
        "hash_seed",
        "id2label",
        "num_labels",
    }
)

_TRAINING: Final = "read in training only"
_GENERATION: Final = "read by the generation loop only"
_OUTPUT_FORM: Final = "chooses what a call returns beside the result"

IRRELEVANT: Final[dict[str, str]] = {
    "axial_norm_std": "spread of fresh axial weights: " + _TRAINING,
    "initializer_range": "spread of fresh weights: " + _TRAINING,
    "hidden_dropout_prob": _TRAINING,
    "local_attention_probs_dropout_prob": _TRAINING,
    "lsh_attention_probs_dropout_prob": _TRAINING,
    "classifier_dropout": _TRAINING,
    "problem_type": "chooses the loss: " + _TRAINING,
    "chunk_size_feed_forward": "cuts the sequence for memory, result unchanged; here feed_forward_slices",
    "chunk_size_lm_head": "cuts the sequence for memory, result unchanged",
    "tie_word_embeddings": "the head is 2 x hidden_size wide, so transformers ties nothing for a Reformer",
    "bos_token_id": _GENERATION,
    "eos_token_id": _GENERATION,
    "use_cache": "a first call with an empty cache gives the same result; " + _GENERATION,
    "output_hidden_states": _OUTPUT_FORM,
    "output_attentions": _OUTPUT_FORM,
    "return_dict": _OUTPUT_FORM,
    "label2id": "the inverse of id2label",
    "dtype": "weights are read in the type they are stored in; the option dtype chooses that of the export",
    "torch_dtype": "the old name of dtype",
    "transformers_version": "says who wrote the file",
    "_name_or_path": "says where the file came from",
}

REFUSED: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "is_encoder_decoder": ((False, None), "a Reformer has no encoder-decoder form"),
    "pruned_heads": ((None, {}, []), "pruned heads are not supported"),
    "quantization_config": ((None,), "quantised weights are not supported"),
    "per_layer_config": ((None, {}), "layers with settings of their own are not supported"),
}
"""Field name -> (values that are fine, why any other is refused)."""

KNOWN: Final = HONOURED | IRRELEVANT.keys() | REFUSED.keys()
