"""The files of a report."""
from __future__ import annotations

from pathlib import Path

from syno_nni.atomic import write_whole
from syno_nni.errors import JournalError
from syno_nni.run.plots import convergence_png, pareto_png
from syno_nni.run.state import RunState

from .model_facts import ModelFacts
from .page import html_report
from .text import text_report

REPORT_FILES = ('report.txt', 'report.html', 'pareto.png', 'convergence.png')


def write_report(state: RunState, run_dir: Path, facts: ModelFacts | None = None) -> list[Path]:
    """Write :data:`REPORT_FILES` into ``run_dir``, each as a whole or not at all; return their paths.

    Args:
        state: of the run.
        run_dir: its directory.
        facts: what is known of the model beyond the journal.

    Raises:
        JournalError: the directory is not writable.
    """
    pareto, convergence = pareto_png(state), convergence_png(state)
    page = html_report(state, pareto, convergence, run_dir=run_dir, facts=facts).encode(errors='backslashreplace')
    contents = (text_report(state, run_dir).encode() + b'\n', page, pareto, convergence)
    paths = [run_dir / name for name in REPORT_FILES]
    for path, content in zip(paths, contents, strict=True):
        try:
            write_whole(path, content)
        except OSError as error:
            raise JournalError(f'{path}: cannot write the report: {error.strerror}') from None
    return paths
