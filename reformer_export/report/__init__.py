"""The JSON of `verify`, `bench` and `inspect` as one page for people."""

from __future__ import annotations

from reformer_export.report.page import render_page

__all__ = ["render_page"]
