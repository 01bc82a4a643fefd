"""The self-contained report of a study: one HTML file, no script, nothing fetched."""

from polyseme.report.html.render import render, write_report

__all__ = ["render", "write_report"]
