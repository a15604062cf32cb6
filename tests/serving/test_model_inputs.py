"""Which models are served; what their requests may hold is tested with the protocol's."""

from __future__ import annotations

import pytest

from reformer_export.errors import InputError
from reformer_export.serving.model_inputs import check_takes_ids
from tests.runtimes.artifacts import make_spec
from tests.test_lucidrains_spec import make_alone


def test_models_that_take_vectors_are_not_served() -> None:
    check_takes_ids(make_spec())
    with pytest.raises(InputError, match="got a model that takes vectors, expected one that takes token ids"):
        check_takes_ids(make_alone())
