"""`syno-nni zoo`: the operators of the model zoo."""
from __future__ import annotations

import argparse
import json

from syno_nni.text import columns, shorten

from .arguments import SubParsers


def add_parser(commands: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser('zoo', parents=[common], help='list the operators of the model zoo',
                                 description='List the operators of the model zoo; `syno-nni show NAME` prints one.')
    parser.add_argument('action', nargs='?', choices=('list',), default='list')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from syno_nni import model_zoo
    entries = [model_zoo.load(name) for name in model_zoo.names()]
    if args.json:
        print(json.dumps([{'name': e.name, 'id': e.operator.id, 'family': e.family, 'source': e.source,
                           'formula': str(e.operator), 'published': [dict(p) for p in e.published]}
                          for e in entries], indent=2))
    else:
        print(columns([('name', 'id', 'formula'),
                       *((e.name, e.operator.id, shorten(str(e.operator), 76)) for e in entries)]))
    return 0
