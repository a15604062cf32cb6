from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.parity.planted import Artifact, export_configuration


@pytest.fixture(scope="package")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    """Artifact by name of configuration, each exported once; not to be changed."""
    made: dict[str, Artifact] = {}

    def make(name: str) -> Artifact:
        if name not in made:
            made[name] = export_configuration(name, tmp_path_factory.mktemp(name))
        return made[name]

    return make
