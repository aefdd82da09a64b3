"""The report of a run: one page that explains itself, and the same figures for other programs."""

from benchmarks.explanations.report.write import write_report

__all__ = ["write_report"]
