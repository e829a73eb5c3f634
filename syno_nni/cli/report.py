"""`syno-nni report`: make the tables and plots of a run anew, also while it goes on."""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import SubParsers
from .terminal import say

if TYPE_CHECKING:
    from syno_nni.run.report import ModelFacts
    from syno_nni.run.state import RunState


def add_parser(commands: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser('report', parents=[common], help='make the report of a run anew',
                                 description='Make the report of a run (report.html, report.txt, plots) from its '
                                 'journal, also while the run goes on.')
    parser.add_argument('run_dir', type=Path, metavar='RUN_DIR')
    parser.add_argument('--json', action='store_true', help='print the whole result as JSON, and write no files')
    parser.set_defaults(run=run)


def facts_of(state: RunState) -> ModelFacts:
    """What can be told of the run's model on this machine; a report does without where timm or torch is not installed."""
    from syno_nni.run.report import ModelFacts
    try:
        from syno_nni.search.model_facts import model_facts
    except ImportError as error:
        return ModelFacts(note=f'The layers of the model are not listed: {error}')
    return model_facts(state)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from syno_nni.run.directory import load_run
    from syno_nni.run.report import report_data, text_report, write_report
    state = load_run(args.run_dir)
    facts = facts_of(state)
    if args.json:
        say(json.dumps(report_data(state, args.run_dir, facts), indent=2))
        return 0
    paths = write_report(state, args.run_dir, facts)
    say(text_report(state, args.run_dir))
    say(f'Written: {", ".join(path.name for path in paths)}')
    return 0
