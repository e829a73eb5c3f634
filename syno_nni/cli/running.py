"""How `search` and `resume` carry a run through to its report."""
from __future__ import annotations

import argparse
import json
from pathlib import Path

from syno_nni.run.config import SearchConfig
from syno_nni.run.directory import check_run_directory, load_run
from syno_nni.run.report import report_data, text_report, write_report
from syno_nni.run.state import RunState

from .progress import Progress
from .report import facts_of
from .terminal import complain, say


def carry_out(config: SearchConfig, run_dir: Path, args: argparse.Namespace, *, resume: bool) -> int:
    """Run the search with progress on the terminal, then report; return the exit status.

    An interrupted search is reported too, and says how to go on. ``args`` has the options of
    :func:`~.arguments.add_output_options`.
    """
    check_run_directory(config, run_dir, resume=resume)
    from syno_nni.nas.waiting import wait_asleep
    wait_asleep(config.latency.threads)  # before torch is imported
    from syno_nni.search.run import run_search
    with Progress(config.max_trial_number, run_dir, lines=not (args.quiet or args.json), bar=not args.quiet) as progress:
        try:
            state = run_search(config, run_dir, resume=resume, listener=progress, tell=progress.tell)
        except KeyboardInterrupt:
            state, status = load_run(run_dir), 130
        else:
            status = 0
    _report(state, run_dir, args.json)
    if status:
        complain('interrupted; everything that finished is recorded')
    return status


def _report(state: RunState, run_dir: Path, as_json: bool) -> None:
    facts = facts_of(state)
    write_report(state, run_dir, facts)
    say(json.dumps(report_data(state, run_dir, facts), indent=2) if as_json else f'\n{text_report(state, run_dir)}')
