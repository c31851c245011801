"""The page of `mirasol compare`."""

from pathlib import Path

from mirasol.evaluate.compare import RunComparison, compare_runs
from mirasol.files import write_whole
from mirasol.report.page import render


def compare(first: str | Path, second: str | Path, output: str | Path | None = None) -> RunComparison:
    """Compare two runs, see `compare_runs`; with `output`, also as a page."""
    result = compare_runs(first, second)
    if output is None:
        return result
    result = result.model_copy(update={"page": str(output)})
    both = f"{result.first.checkpoint} and {result.second.checkpoint}"
    page = render("compare.html", result=result, checkpoint=both)
    write_whole(Path(output), page)
    return result
