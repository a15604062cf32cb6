"""What `verify`, `bench`, `inspect` and `doctor` found as tables, and as one page for people."""

from __future__ import annotations

from reformer_export.report.page import render_page, write_report

__all__ = ["render_page", "write_report"]
