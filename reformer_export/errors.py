"""Every error this package raises on purpose: one base class, named leaves.

A message is one line that says what is wrong, what was got, what was expected and how to mend it. `what` may
be the name of an option's field, and the words may name others in backquotes (`threads`, `overwrite=True`):
the command line shows them as its own options. It prints the line and leaves with `exit_status`.
"""

from __future__ import annotations

import errno
import os
import reprlib
from typing import Final

EXIT_CHECK_FAILED: Final = 1
EXIT_INPUT_AT_FAULT: Final = 2

MAX_REASON_CHARACTERS: Final = 300


def one_line(error: BaseException) -> str:
    """What `error` of a library says, as a part of our own: on one line, not too long, without backquotes."""
    text = " ".join(str(error).replace("`", "'").split())
    return text if len(text) <= MAX_REASON_CHARACTERS else text[:MAX_REASON_CHARACTERS] + "..."


def reason_of(error: BaseException) -> str:
    """Why the system refused, in its words alone: `str` of an OSError has a number before them, and the path
    behind, and libraries put words of their own in it. Of other errors as `one_line`."""
    if not isinstance(error, OSError):
        return one_line(error)
    if error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    return error.strerror or one_line(error)  # a name's, for one, has numbers of its own


def one_line_repr(value: object) -> str:
    """`repr` of what a caller has given, as a part of our own words: on one line, short, whatever it is."""
    return " ".join(reprlib.repr(value).replace("`", "'").split())


class ReformerExportError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        what: what is at fault: a field, a file, a part of the model.
        got: what it is.
        expected: what it should be.
        fix: how to mend it.
    """

    exit_status = EXIT_INPUT_AT_FAULT

    def __init__(self, what: object, got: object = "", expected: object = "", fix: object = "") -> None:
        """The four parts of the sentence, each as its text; a lone `what` is the whole of it."""
        super().__init__(what, got, expected, fix)
        self.what, self.got, self.expected, self.fix = map(str, (what, got, expected, fix))

    def __str__(self) -> str:
        text = self.what
        if self.got or self.expected:
            text += f": got {self.got}, expected {self.expected}"
        text = f"{text}; {self.fix}" if self.fix else text
        return " ".join(text.split()) if "\n" in text else text  # a file's name can hold anything


class SpecError(ReformerExportError):
    """A description of a model contradicts itself or asks for what a Reformer cannot do."""


class CheckpointError(ReformerExportError):
    """A checkpoint is missing, broken, or of an architecture that is not supported."""


class ArtifactError(ReformerExportError):
    """An exported artifact is missing, broken, tampered with, or of another version."""


class OutputError(ReformerExportError):
    """The output cannot be written: it exists already, or the disk refuses."""


class InputError(ReformerExportError):
    """Token ids, masks, text or options given by the user do not fit the model."""


class MissingDependencyError(ReformerExportError):
    """A command needs a package that is not installed; the message names the extra that brings it."""


class ExportError(ReformerExportError):
    """The exporter produced a graph that does not keep the contract (for example a fixed axis)."""


class ParityError(ReformerExportError):
    """An artifact computes something else than eager does."""

    exit_status = EXIT_CHECK_FAILED


class EngineError(ReformerExportError):
    """TensorRT refuses to build an engine, or the process that builds it ended early."""


class RuntimeUnavailableError(ReformerExportError):
    """A runtime was asked for that this machine cannot run."""


class LibraryBuildError(ReformerExportError):
    """A native library cannot be built here; the message names the log."""
