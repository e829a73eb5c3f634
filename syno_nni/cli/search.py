"""`syno-nni search`: search by an experiment file."""
from __future__ import annotations

import argparse
import json
from pathlib import Path

from .arguments import SubParsers, add_run_options, with_run_options
from .terminal import say


def add_parser(commands: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        'search', parents=[common], help='search operators by an experiment file',
        description='Search operators by an experiment file; without one, for a small ResNet on scikit-learn digits.')
    parser.add_argument('config', nargs='?', metavar='CONFIG.yml', help='experiment file (default: the packaged '
                        'quickstart; --dry-run prints it)')
    parser.add_argument('--run-dir', type=Path, metavar='DIR', help='new directory for the journal and the report '
                        '(default: runs/<name>-<date>-<time>)')
    parser.add_argument('--dry-run', action='store_true', help='print the resolved experiment file and stop')
    add_run_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from syno_nni.errors import ConfigError
    from syno_nni.files import check_path
    from syno_nni.run.config import is_nnictl_file, load_config, load_yaml, parse_yaml
    from syno_nni.run.directory import new_run_directory, planned_run_directory
    if args.dry_run and args.config is not None and is_nnictl_file(load_yaml(args.config)):
        from .nnictl import resolve
        text = resolve(args.config)
        say(f'{json.dumps(parse_yaml(text, args.config), indent=2)}\n' if args.json else text, end='')
        return 0
    config = with_run_options(load_config(args.config), args)
    if args.dry_run:
        check_path(args.run_dir or planned_run_directory(config), error=ConfigError, what='the run directory')
        from syno_nni.search.preflight import check
        check(config)
        say(f'{json.dumps(config.to_dict(), indent=2)}\n' if args.json else config.to_yaml(), end='')
        return 0
    from .running import carry_out
    return carry_out(config, args.run_dir or new_run_directory(config), args, resume=False)
