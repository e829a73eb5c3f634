"""`syno-nni resume`: go on with a run that was interrupted, killed, or is to get a larger budget."""
from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import SubParsers, add_run_options, with_run_options


def add_parser(commands: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        'resume', parents=[common], help='go on with a run',
        description='Go on with a run after an interruption or a crash, or with a larger budget. Nothing that '
        'finished is done again.')
    parser.add_argument('run_dir', type=Path, metavar='RUN_DIR')
    add_run_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from syno_nni.run.directory import run_config
    config = with_run_options(run_config(args.run_dir), args)
    from .running import carry_out
    return carry_out(config, args.run_dir, args, resume=True)
