"""Files of any size through a runtime: what a command line, a server and a worker share."""

from reformer_export.batch.batching import Batching, Totals
from reformer_export.batch.files_request import PART_ROWS, FilesRequest, OnError, PartFormat
from reformer_export.batch.outputs import JsonLinesWriter, Output, ResultWriter
from reformer_export.batch.results import SequenceResult, summarize_result
from reformer_export.batch.run import end_at_bad_line, open_output, refuse_bad_line, run_batches
from reformer_export.batch.selection import OutputSelection, find_tokenizer
from reformer_export.batch.sequences import (
    GivenSequences,
    InputLine,
    InputSequence,
    SequenceReader,
    Source,
)
from reformer_export.batch.shards import run_files, run_shard
from reformer_export.batch.sources import open_file

__all__ = [
    "PART_ROWS",
    "Batching",
    "FilesRequest",
    "GivenSequences",
    "InputLine",
    "InputSequence",
    "JsonLinesWriter",
    "OnError",
    "Output",
    "OutputSelection",
    "PartFormat",
    "ResultWriter",
    "SequenceReader",
    "SequenceResult",
    "Source",
    "Totals",
    "end_at_bad_line",
    "find_tokenizer",
    "open_file",
    "open_output",
    "refuse_bad_line",
    "run_batches",
    "run_files",
    "run_shard",
    "summarize_result",
]
