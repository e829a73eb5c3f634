"""`syno-nni nnictl`: NNI's own command line, with the experiment file checked first and the manager for its owner alone."""
from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from syno_nni.errors import ConfigError

from .arguments import SubParsers


def add_parser(commands: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        'nnictl', parents=[common], help="NNI's nnictl, with a manager that listens on loopback and wants a token",
        description="NNI's nnictl: `syno-nni nnictl create --config FILE.yml` checks the file with messages of one line, and "
        "starts NNI's manager so that it listens on this machine only and answers nobody without the token in the address "
        'that is printed (`syno-nni nnictl webui url` prints it again). Started by nnictl itself, it listens on all '
        'interfaces, without authentication.')
    parser.add_argument('--host', default='127.0.0.1', help='address that the manager listens on (default: %(default)s)')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, metavar='...', help='create --config FILE.yml --port PORT, '
                        'resume, stop, ...: see nnictl --help')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    words = args.arguments
    if 'create' in words[:2]:
        path = _Create().parse_args(words[words.index('create') + 1:]).config
        if path is None:
            raise ConfigError('nnictl create: --config FILE.yml is missing')
        resolve(path)
    from syno_nni.nas.manager import manager_environment
    with manager_environment(args.host, detached=True):
        return subprocess.run([sys.executable, '-P', '-m', 'syno_nni.nas.nnictl', *words], check=False).returncode


def resolve(path: str) -> str:
    """The resolved form of a file for ``nnictl create``, as YAML.

    Raises:
        ConfigError: something is wrong with it.
    """
    from syno_nni.files import show_path
    from syno_nni.run.nnictl_file import resolved, tuner_config
    from syno_nni.run.yaml_file import dump_yaml, load_yaml
    source, folder = show_path(path), Path(path).parent
    data = resolved(load_yaml(path), source, folder)
    from syno_nni.nas import nnictl_check
    from syno_nni.search import preflight
    preflight.check(tuner_config(data['tuner']['classArgs']), here=data['trainingService'].get('platform') == 'local')
    nnictl_check.check(data, source, folder)
    return dump_yaml(data)


class _Create(argparse.ArgumentParser):
    """NNI's options of ``create``, so that the file that is looked at is the one that NNI takes."""

    def __init__(self) -> None:
        super().__init__(prog='syno-nni nnictl create', allow_abbrev=False)
        self.add_argument('--config', '-c', metavar='FILE.yml')
        self.add_argument('--port', '-p', type=int, choices=range(1, 65536), metavar='PORT')
        self.add_argument('--debug', '-d', action='store_true')
        self.add_argument('--url_prefix', '-u', metavar='PREFIX')
        self.add_argument('--foreground', '-f', action='store_true')

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f'nnictl create: {message}')
