"""A user's own module, from the function that makes it: an artifact of it does not say where it came from.

Importing runs what is in the file, with all that this process may do. Only a caller names it, never an
artifact, which may be a stranger's.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from reformer_export.errors import InputError, one_line, one_line_repr
from reformer_export.workflows.progress import Say

_REFERENCE: Final = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")

FORM: Final = "package.module:function"


def load_user_module(reference: str, say: Say) -> tuple[Any, Any]:
    """(the module, inputs or None) that a user's function gives, which may give the module alone; `reference`
    is `package.module:function`, looked for in the working directory too.

    `say` is told of it before anything of it runs.

    Raises:
        InputError: it is not there, or does not give them.
    """
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        fix = "name a function that returns the module, or the module and inputs"
        raise InputError("module", one_line_repr(reference), FORM, fix)
    package, function = parts.groups()
    say(f"Importing {package} and calling its {function}(): this runs the code in it.")
    with _working_directory_first():
        try:
            found: Any = importlib.import_module(package)
            for name in function.split("."):
                found = getattr(found, name)
            result = found()
        except Exception as error:  # a user's code raises what it likes
            got = f"{type(error).__name__}: {one_line(error)}"
            raise InputError(f"module {reference}", got, "a module", "mend the function") from error
    if isinstance(result, tuple) and len(result) == 2:
        return result
    return result, None


@contextlib.contextmanager
def _working_directory_first() -> Iterator[None]:
    """While the block runs, modules are looked for in the working directory first, as `python -m` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
