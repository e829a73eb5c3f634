"""`syno-nni retrofit`: a timm model with operators in its slots, as a folder that timm loads."""
from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syno_nni.errors import ConfigError
from syno_nni.text import columns, quantity

from .arguments import SubParsers, positive, seconds
from .terminal import say

if TYPE_CHECKING:
    from syno_nni.data.config import DataConfig
    from syno_nni.operator import Operator
    from syno_nni.search.recipe import Recipe
    from syno_nni.search_spaces.retrofit.per_slot import Choice


def add_parser(commands: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        'retrofit', parents=[common], help='put operators into a timm model and write a folder that timm loads',
        description='Put operators into the slots of a timm model, write a folder (config.json, model.safetensors, '
        'README.md) that timm.create_model("local-dir:FOLDER") loads, and print MACs, parameters and measured latency '
        'before and after.')
    parser.add_argument('model', nargs='?', metavar='MODEL', help='name of a timm model (default: that of --from-run)')
    what = parser.add_argument_group('what goes in')
    what.add_argument('--operator', action='append', default=[], metavar='[SLOTS=]FORMULA|ID|NAME',
                      help='for all slots, or for those of a kind, pattern or name: --operator pointwise=grouped_linear; '
                      'with --budget, the operators to choose from (default: those of the zoo)')
    what.add_argument('--from-run', type=Path, metavar='RUN_DIR', help="the best operator of a search, in the search's model")
    what.add_argument('--candidate', default='', metavar='ID', help='another candidate of the run')
    what.add_argument('--budget', metavar='8ms|60%|loss=X', help='choose per group of slots: what loses least within a '
                      'latency, or is fastest within a loss (points of accuracy with --data, else error of the slots)')
    what.add_argument('--group-by', default='shape', choices=('shape', 'stage', 'kind', 'slot', 'model'),
                      help='which slots share a choice (default: %(default)s)')
    what.add_argument('--kinds', metavar='KINDS', help='kinds of slots: conv3x3, pointwise, linear, ... or all '
                      '(default: those that hold most of the work)')
    what.add_argument('--include', default='', metavar='PATTERNS', help='slots such as layer3.*')
    what.add_argument('--exclude', default='', metavar='PATTERNS', help='layers to keep')
    what.add_argument('--groups', type=positive, metavar='G', help='largest number of groups g (default: 32)')
    model = parser.add_argument_group('the model')
    model.add_argument('--checkpoint', type=Path, metavar='FILE', help="the original's weights (.safetensors, or .pth "
                       'without code in it); the operators start from them')
    model.add_argument('--pretrained', action='store_true', help="start from timm's pretrained weights (a download)")
    model.add_argument('--num-classes', type=positive, metavar='N')
    model.add_argument('--channels', type=positive, metavar='N', help='of the image')
    model.add_argument('--image-size', type=positive, metavar='PIXELS', help='(default: the size the model declares)')
    fit = parser.add_argument_group('weights')
    fit.add_argument('--data', choices=('digits', 'fashion-mnist', 'cifar10', 'cifar100', 'imagefolder'),
                     help='images to fit the operators on, to train and to test with')
    fit.add_argument('--data-path', metavar='DIR')
    fit.add_argument('--train-samples', type=positive, metavar='N', help='(default: all)')
    fit.add_argument('--steps', type=int, default=0, metavar='N', help='of distillation from the original, in batches of 64')
    fit.add_argument('--learning-rate', type=float, default=0.02, help='(default: %(default)s)')
    fit.add_argument('--losses', default='labels=0.5,logits=0.5,layers=0', metavar='labels=A,logits=B,layers=C',
                     help='weights of the losses (default: %(default)s)')
    out = parser.add_argument_group('results')
    out.add_argument('--out', type=Path, metavar='DIR', help='(default: MODEL-syno)')
    out.add_argument('--onnx', action='store_true', help='write model.onnx too, with a free batch size')
    out.add_argument('--runtime', default='eager', metavar='RUNTIMES', help='measure in eager, inductor, onnx and/or '
                     'openvino, separated by commas, or none (default: %(default)s)')
    out.add_argument('--threads', type=positive, metavar='N', help='(default: all cores)')
    out.add_argument('--seconds', type=seconds, default=3.0, help='of measuring per runtime (default: %(default)s)')
    out.add_argument('--json', action='store_true', help='print the evidence as JSON, and nothing else on stdout')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from syno_nni.search.recipe import make_retrofit
    done = make_retrofit(_recipe(args), command=shlex.join(['syno-nni', *sys.argv[1:]]))
    folder = done.save(args.out, onnx=args.onnx)
    if args.json:
        files = sorted(path.name for path in folder.iterdir())
        say(json.dumps({'folder': str(folder), 'files': files, **done.evidence}, indent=2))
        return 0
    if done.choice is not None:
        say(_choices(done.choice), end='\n\n')
    say(_summary(done.evidence))
    say(f'\nWritten to {folder}: {", ".join(sorted(p.name for p in folder.iterdir()))}')
    say(f"Load with: import syno_nni; timm.create_model('local-dir:{folder}', pretrained=True)")
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    """What the options ask for.

    Raises:
        ConfigError: an option cannot be read, or two of them contradict each other.
    """
    if not args.from_run and not args.model:
        raise ConfigError('name a timm model, or a search with --from-run RUN_DIR')
    runtimes = [name for name in args.runtime.split(',') if name and name != 'none']
    losses = _losses(args.losses)
    from syno_nni.search.recipe import Evidence, Recipe, Weights
    from syno_nni.search_spaces.retrofit.distill import Losses
    from syno_nni.search_spaces.retrofit.per_slot import Budget
    from syno_nni.search_spaces.selection import Selection
    operators = [_named(text) for text in args.operator]
    keys = [key for key, _ in operators]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None and not args.budget:
        raise ConfigError(f'--operator: two of them fill {"all slots" if twice == "*" else twice}; say which slots each is for '
                          '(SLOTS=OPERATOR), or let --budget choose')
    return Recipe(
        args.model or '', {} if args.budget else dict(operators), Budget.parse(args.budget) if args.budget else None,
        [op for _, op in operators] if args.budget else (), args.from_run, args.candidate,
        Selection(args.kinds or 'auto', args.include, args.exclude, coefficients={'g': args.groups} if args.groups else {},
                  group_by=args.group_by),
        args.num_classes, args.channels, args.image_size,
        Weights(args.checkpoint, args.pretrained, _data(args), args.steps, args.learning_rate, Losses(**losses)),
        Evidence(runtimes, args.threads, args.seconds))


def _losses(text: str) -> dict[str, float]:
    weights = {}
    for part in filter(None, text.split(',')):
        name, _, value = part.partition('=')
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(f'--losses wants labels=A,logits=B,layers=C, got {part!r:.40}') from None
    unknown = set(weights) - {'labels', 'logits', 'layers'}
    if unknown:
        raise ConfigError(f'--losses: unknown loss {sorted(unknown)[0]!r:.40}; choose from labels, logits, layers')
    return weights


def _data(args: argparse.Namespace) -> DataConfig | None:
    if not args.data:
        return None
    from pydantic import ValidationError

    from syno_nni.data.config import DataConfig
    given = {'name': args.data, 'image_size': args.image_size, 'channels': args.channels, 'path': args.data_path,
             'train_samples': args.train_samples}
    try:
        return DataConfig(**{k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = '.'.join(map(str, first['loc']))
        raise ConfigError(f'--data {args.data}: {where}{": " * bool(where)}{first["msg"]}') from None


def _named(text: str) -> tuple[str, Operator]:
    """``layer4.*=NAME`` as a pattern and an operator; a formula has ``=`` and a bracket before it."""
    from .find_operator import find_operator
    key, equals, rest = text.partition('=')
    if equals and '[' not in key:
        return key.strip(), find_operator(rest)[0]
    return '*', find_operator(text)[0]


def _choices(choice: Choice) -> str:
    """What was chosen per group of slots, as a table."""
    from syno_nni import model_zoo
    known = {model_zoo.load(name).operator.id: name for name in model_zoo.names()}
    rows = [('group', 'slots', 'choice', 'ms', 'kept ms', 'loss')]
    for group, name in choice.assignment.choices.items():
        option = next(o for o in choice.options[group] if o.name == name)
        rows.append((group, str(len(choice.groups[group])), known.get(name, name), f'{option.latency_ms:.3f}',
                     f'{choice.options[group][0].latency_ms:.3f}', f'{option.loss:.3g}'))
    return columns(rows, {1, 3, 4, 5})


def _summary(evidence: dict[str, Any]) -> str:
    change = evidence['change']
    rows = [('', 'before', 'after', '')]
    for what, key in (('MACs', 'macs'), ('params', 'params')):
        before, after = change[f'baseline_{key}'], change[key]
        rows.append((what, quantity(before), quantity(after), f'{after / before:.2f}x'))
    for r in evidence['latency']:
        name = f'{r["runtime"]} ms'
        rows.append((name, '', '', f'failed: {r["error"][:90]}') if 'error' in r else
                    (name, f'{r["baseline_latency_ms"]:.2f}', f'{r["latency_ms"]:.2f}',
                     f'speedup {r["speedup"]:.2f}x ({r["speedup_low"]:.2f}-{r["speedup_high"]:.2f})'
                     + ' noisy' * r['noisy']))
    accuracy = evidence.get('accuracy')
    if accuracy:
        before, after = (f'{100 * accuracy[key]:.2f} %' for key in ('baseline_accuracy', 'accuracy'))
        rows.append(('test accuracy', before, after, ''))
    error = f', error of the slots {evidence["slot_error"]:.3f}' if 'slot_error' in evidence else ''
    return f'{columns(rows, {1, 2})}\n\n{change["slots"]} slots filled; weights: {evidence["weights"]}{error}'
