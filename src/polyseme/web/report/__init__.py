"""The self-contained report of a study: one HTML file, no script, nothing fetched."""

from polyseme.web.report.render import render, write_report

__all__ = ["render", "write_report"]
