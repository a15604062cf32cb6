"""Every error this package raises on purpose: one base class, named leaves.

A message is one line that says what is wrong, what was got, what was expected and how to mend it.
The command line prints it and leaves with `exit_status`.
"""

from __future__ import annotations

EXIT_CHECK_FAILED = 1
EXIT_INPUT_AT_FAULT = 2


class ReformerExportError(Exception):
    """Base of all errors raised on purpose."""

    exit_status = EXIT_INPUT_AT_FAULT


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


class EngineError(ReformerExportError):
    """TensorRT refuses to build an engine, or the process that builds it ended early."""


class RuntimeUnavailableError(ReformerExportError):
    """A runtime was asked for that this machine cannot run."""
