from __future__ import annotations

import os

from hypothesis import settings

# The same examples on every run of CI, so that a red run means a changed project; new ones at a desk.
settings.register_profile("ci", derandomize=True, database=None)
if os.environ.get("CI"):
    settings.load_profile("ci")
