"""`syno-nni zoo`: the operators and retrofitted models of the model zoo, their cards, and whether their claims hold."""
from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from syno_nni.errors import ConfigError
from syno_nni.measure import RUNTIMES
from syno_nni.text import cell, columns, shorten

from .arguments import SubParsers, positive, seconds
from .terminal import say

if TYPE_CHECKING:
    from syno_nni.model_zoo import Retrofit
    from syno_nni.model_zoo.gains import Gain


def add_parser(commands: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser('zoo', parents=[common], help='list, show or verify what is in the model zoo',
                                 description='list: the operators and retrofitted models. show NAME: the card of one. '
                                 'verify NAME: measure its claims again on this machine; exit status 3 if one does not hold.')
    parser.add_argument('action', nargs='?', choices=('list', 'show', 'verify'), default='list')
    parser.add_argument('name', nargs='?', metavar='NAME')
    parser.add_argument('--runtime', choices=RUNTIMES, help='verify in this one only')
    parser.add_argument('--threads', type=positive, metavar='N', help='(default: as claimed)')
    parser.add_argument('--seconds', type=seconds, default=3.0, help='of measuring (default: %(default)s)')
    parser.add_argument('--quiet', action='store_true', help='verify without a progress bar')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.action != 'list' and not args.name:
        raise ConfigError(f'zoo {args.action} wants a name; `syno-nni zoo list` shows all')
    if args.action == 'list' and args.name is not None:
        raise ConfigError(f'zoo list takes no name; did you mean `syno-nni zoo show {cell(args.name, 80)}`?')
    return {'list': _list, 'show': _show, 'verify': _verify}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from syno_nni import model_zoo
    from syno_nni.model_zoo.gains import gains
    entries = [model_zoo.load(name) for name in model_zoo.names()]
    models = [model_zoo.load_retrofit(name) for name in model_zoo.retrofit_names()]
    found = gains((m.name, m.base, claim) for m in models for claim in m.claims)
    if args.json:
        say(json.dumps(
            [{'name': e.name, 'id': e.operator.id, 'family': e.family, 'source': e.source,
              'formula': str(e.operator), 'published': [dict(p) for p in e.published]} for e in entries]
            + [{'name': m.name, 'base': m.base, 'fill': dict(m.fill), 'claims': [dict(c) for c in m.claims],
                'gain': asdict(found[m.name]) | {'speedup': found[m.name].speedup} if m.name in found else None,
                'published': m.published()} for m in models], indent=2))
    else:
        say(columns([('operator', 'id', 'formula'),
                       *((e.name, e.operator.id, shorten(str(e.operator), 76)) for e in entries)]))
        say()
        say(columns([('retrofitted model', 'evidence'), *((m.name, _evidence(m, found.get(m.name))) for m in models)]))
    return 0


def _evidence(model: Retrofit, gain: Gain | None) -> str:
    """What it gains, where it is no faster, and the measured accuracies; or what was published."""
    import numpy as np
    found = []
    if gain is not None:
        found.append(f'measured: {gain.speedup:.2f}x (in {gain.runtime}, the original in {gain.original_runtime}) on '
                     f'{gain.cpu or "?"}')
    if slower := [f'{c["speedup"]:.2f}x in {c["runtime"]}' for c in model.claims if c.get('speedup', 1) < 1]:
        found.append(f'slower than the original: {", ".join(slower)}')
    for claim in model.claims:
        if claim.get('accuracy') and claim.get('baseline_accuracy'):
            ours, original = (f'{100 * float(np.mean(claim[key])):.1f} %' for key in ('accuracy', 'baseline_accuracy'))
            found.append(f'{claim.get("dataset") or ""} {ours} (original {original})')
    for numbers in () if found else model.published():
        if numbers.get('cifar100_accuracy') and numbers.get('cifar100_baseline'):
            found.append(f'published: CIFAR-100 {100 * numbers["cifar100_accuracy"]:.1f} % '
                         f'(original {100 * numbers["cifar100_baseline"]:.1f} %)')
    return ', '.join(found) or 'none yet'


def _show(args: argparse.Namespace) -> int:
    from syno_nni import model_zoo
    from syno_nni.model_zoo.card import operator_card, retrofit_card
    if args.name in model_zoo.retrofit_names():
        model = model_zoo.load_retrofit(args.name)
        say(json.dumps({'name': model.name, 'base': model.base, 'fill': dict(model.fill),
                          'claims': [dict(c) for c in model.claims], 'published': model.published()}, indent=2)
              if args.json else retrofit_card(model))
        return 0
    entry = model_zoo.find(args.name) or _unknown(args.name)
    say(json.dumps({'name': entry.name, 'operator': entry.operator.to_dict(), 'published': [dict(p) for p in entry.published],
                      'citation': entry.citation}, indent=2) if args.json else operator_card(entry))
    return 0


def _unknown(name: str) -> Any:
    """Raises ZooError with the closest names of either sort."""
    from syno_nni import model_zoo
    from syno_nni.errors import ZooError
    from syno_nni.model_zoo.entries import close_names
    hint = close_names(name, [*model_zoo.names(), *model_zoo.retrofit_names()])
    raise ZooError(f'the zoo has nothing called {cell(name, 80)!r}{hint} `syno-nni zoo list` shows all')


def _verify(args: argparse.Namespace) -> int:
    from syno_nni import model_zoo
    from syno_nni.model_zoo.verify import FAILS, verify

    from .progress import each
    if args.name not in model_zoo.retrofit_names():
        if model_zoo.find(args.name):
            raise ConfigError(f'{args.name} is an operator; verify a model that holds it, such as '
                              + next((n for n in model_zoo.retrofit_names()
                                      if args.name in model_zoo.load_retrofit(n).operators), 'none yet'))
        _unknown(args.name)
    verdicts = verify(model_zoo.load_retrofit(args.name), runtime=args.runtime, threads=args.threads, seconds=args.seconds,
                      progress=lambda claims: each(claims, f'verify {args.name}', 'claim', quiet=args.quiet))
    if args.json:
        say(json.dumps([{'claim': dict(v.claim), 'measured': dict(v.measured), 'verdict': v.verdict, 'reason': v.reason}
                          for v in verdicts], indent=2))
    else:
        say(columns([('runtime', 'measured here', 'verdict', 'why'), *(
            (v.claim['runtime'], f'{v.measured["speedup"]:.2f}x ({v.measured["speedup_low"]:.2f}-'
             f'{v.measured["speedup_high"]:.2f})' if v.measured else '', v.verdict, v.reason) for v in verdicts)]))
    return 3 if any(v.verdict == FAILS for v in verdicts) else 0
