"""The report's data model, under the name the web layer uses for it.

It lives in `polyseme.interpret.report`, because the studies fill it and may not import the web layer above them.
"""

from polyseme.interpret.report import SCHEMA, StudyReport

__all__ = ["SCHEMA", "StudyReport"]
