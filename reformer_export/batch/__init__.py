"""Files of any size through a runtime: what a command line, a server and a worker share."""

from reformer_export.batch.batching import Batching, Totals
from reformer_export.batch.outputs import JsonLinesWriter, Output, ResultWriter
from reformer_export.batch.results import SequenceResult, summarize_result
from reformer_export.batch.run import open_output, refuse_bad_line, run_batches
from reformer_export.batch.selection import OutputSelection, find_tokenizer
from reformer_export.batch.sequences import (
    GivenSequences,
    InputLine,
    InputSequence,
    SequenceReader,
    Source,
)
from reformer_export.batch.sources import open_file

__all__ = [
    "Batching",
    "GivenSequences",
    "InputLine",
    "InputSequence",
    "JsonLinesWriter",
    "Output",
    "OutputSelection",
    "ResultWriter",
    "SequenceReader",
    "SequenceResult",
    "Source",
    "Totals",
    "find_tokenizer",
    "open_file",
    "open_output",
    "refuse_bad_line",
    "run_batches",
    "summarize_result",
]
