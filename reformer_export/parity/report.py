"""A sweep as one HTML file: verdict, a plot of the errors, every case. Needs jinja2 and matplotlib."""

from __future__ import annotations

import io
from typing import Final

from reformer_export.errors import MissingDependencyError
from reformer_export.parity.verify import VerifyResult

SMALLEST_SHOWN: Final = 1e-9
"""Errors of 0 stand here on the logarithmic axis."""

_TEMPLATE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Parity of {{ artifact }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #ddd; }
  th:first-child, td:first-child { text-align: left; }
  .passed { color: #17692c; } .failed { color: #b00020; font-weight: bold; }
  svg { max-width: 100%; height: auto; }
</style>
<h1>{{ artifact }} against eager</h1>
<p class="{{ 'passed' if result.passed else 'failed' }}">{{ result.verdict() }}</p>
<p>Runtime: {{ result.runtime }}. Dtype: {{ result.dtype }}.</p>
{{ plot }}
<table>
<tr><th>case</th><th>pinned error</th><th>tolerance</th><th>free error</th><th>hashes</th><th>flips</th>
<th>unexplained</th><th></th></tr>
{% for case in result.cases %}
<tr><td>{{ case.case }}</td><td>{{ "%.1e"|format(case.pinned_error) }}</td>
<td>{{ "%.1e"|format(case.tolerance) }}</td><td>{{ "%.1e"|format(case.free_error) }}</td>
<td>{{ case.hashed }}</td><td>{{ case.flips }}</td><td>{{ case.unexplained }}</td>
<td class="{{ 'passed' if case.passed else 'failed' }}">{{ "ok" if case.passed else "FAILED" }}</td></tr>
{% endfor %}
</table>
<p>Pinned: both use eager's hash buckets, so this judges the arithmetic. Flips: hashes that differ; explained
when
the two best scores differ by less than the dtype's rounding. Free: the artifact hashes for itself.</p>
</html>
"""


def render_report(artifact: str, result: VerifyResult) -> str:
    """The report's HTML; one file with its picture inside.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            f"--report: got '{error}', expected jinja2 and matplotlib; pip install 'reformer-export[report]'"
        ) from error
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    lengths = [case.case.length for case in result.cases]
    for name, marker in (("pinned_error", "o"), ("free_error", "x"), ("tolerance", "_")):
        values = [max(getattr(case, name), SMALLEST_SHOWN) for case in result.cases]
        axes.scatter(lengths, values, marker=marker, label=name.replace("_", " "))
    axes.set(xscale="log", yscale="log", xlabel="length (tokens)", ylabel="largest difference")
    axes.legend()
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    picture = drawn.getvalue()
    environment = jinja2.Environment(autoescape=True)
    return environment.from_string(_TEMPLATE).render(
        artifact=artifact, result=result, plot=Markup(picture[picture.index("<svg") :])
    )
