"""`syno-nni retrofit`: a timm model with operators in its slots, as a folder that timm loads."""
from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syno_nni.errors import ConfigError
from syno_nni.files import WEIGHTS_BYTES, check_file, show_path
from syno_nni.measure import RUNTIMES
from syno_nni.text import cell, columns, quantity

from .arguments import SubParsers, positive
from .terminal import say

if TYPE_CHECKING:
    from torch import nn

    from syno_nni.operator import Operator
    from syno_nni.search.from_run import RunChoice



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
    what.add_argument('--budget', metavar='8ms|60%%|loss=X', help='choose per group of slots: what loses least within a '
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
    out.add_argument('--seconds', type=float, default=3.0, help='of measuring per runtime (default: %(default)s)')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    _check(args)
    import torch

    from syno_nni import model_zoo
    from syno_nni.model_zoo.card import folder_card
    from syno_nni.model_zoo.evidence import change, latencies, versions
    from syno_nni.search.from_run import choice_of_run
    from syno_nni.search_spaces.retrofit.retrofit import retrofit, slot_config
    choice = choice_of_run(args.from_run, args.candidate) if args.from_run else None
    data = _data(args, choice)
    original = _original(args, choice, data)
    example = torch.randn(_shape(args, choice, data, original))
    mapping, slots = _what(args, choice, original, example, data)
    result = retrofit(original, mapping, example, slots=slots, on_misfit='keep')
    evidence: dict[str, Any] = {'command': shlex.join(['syno-nni', *sys.argv[1:]]), 'versions': dict(versions()),
                                'change': change(original, result, slots, example)}
    evidence |= _weights(args, original, result, data)
    if choice is not None:
        evidence['run'] = choice.provenance
    evidence['latency'] = latencies(original, result, example, _runtimes(args.runtime), threads=args.threads,
                                    seconds=args.seconds)
    base = getattr(original, 'syno_base', None) or original.pretrained_cfg['architecture']
    folder = args.out or Path(f'{base}-syno')
    card = folder_card(folder.name, base, slot_config(result), evidence)
    model_zoo.save_folder(result, folder, base=base, input_size=example.shape[1:], evidence=evidence, card=card)
    say(_summary(evidence))
    if args.onnx:
        from syno_nni.measure.onnx import export_onnx
        export_onnx(result.eval(), example, folder / 'model.onnx', free_batch=True)
    say(f'\nWritten to {folder}: {", ".join(sorted(p.name for p in folder.iterdir()))}')
    say(f"Load with: import syno_nni.model_zoo; timm.create_model('local-dir:{folder}', pretrained=True)")
    return 0


def _check(args: argparse.Namespace) -> None:
    """What can be told without loading torch."""
    if args.from_run and (args.operator or args.budget):
        raise ConfigError('--from-run brings its operator: leave out --operator and --budget')
    if not args.from_run and not args.model:
        raise ConfigError('name a timm model, or a search with --from-run RUN_DIR')
    if not (args.from_run or args.operator or args.budget):
        raise ConfigError('what goes into the slots? give --operator, --from-run or --budget; `syno-nni zoo` lists operators')
    if args.candidate and not args.from_run:
        raise ConfigError('--candidate is of a run: add --from-run RUN_DIR')
    if args.steps and not args.data:
        raise ConfigError('--steps trains on images: add --data')
    if args.steps < 0:
        raise ConfigError(f'--steps must be at least 0, got {args.steps}')
    _runtimes(args.runtime)
    _losses(args.losses)


def _runtimes(text: str) -> list[str]:
    names = [name for name in text.split(',') if name and name != 'none']
    for name in names:
        if name not in RUNTIMES:
            raise ConfigError(f'--runtime: unknown runtime {name!r:.40}; choose from {", ".join(RUNTIMES)}, none')
    return names


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


# --- the original ----------------------------------------------------------------------------------------------------

def _data(args: argparse.Namespace, choice: RunChoice | None) -> Any:
    """The splits to fit and test on, or those of the run, whose classes decide the model's head."""
    from syno_nni.data.datasets import load_data
    from syno_nni.run.config import DataConfig
    if args.data:
        given = {'name': args.data, 'image_size': args.image_size or 32, 'channels': args.channels or 3,
                 'path': args.data_path, 'train_samples': args.train_samples}
        return load_data(DataConfig(**{k: v for k, v in given.items() if v is not None}))
    return load_data(choice.config.data) if choice is not None else None


def _original(args: argparse.Namespace, choice: RunChoice | None, data: Any) -> nn.Module:
    import syno_nni.model_zoo  # noqa: F401  so that its models have names
    from syno_nni.backbone import create_backbone
    config = choice.config if choice is not None else None
    name = args.model or (config.model.name if config else '')
    if config and name != config.model.name:
        raise ConfigError(f'{args.from_run} searched operators for {config.model.name}; leave {name} out, or take the '
                          'formula with --operator')
    kwargs = dict(config.model.kwargs) if config else {}
    classes = args.num_classes or (data.num_classes if data is not None else None)
    if classes:
        kwargs['num_classes'] = classes
    channels = args.channels or (config.data.channels if config else None)
    if channels:
        kwargs['in_chans'] = channels
    model = create_backbone(name, pretrained=args.pretrained or name.startswith(('local-dir:', 'hf-hub:')), **kwargs)
    if args.checkpoint:
        _load(model, args.checkpoint)
    return model.eval()


def _load(model: nn.Module, path: Path) -> None:
    from timm.models import load_state_dict
    check_file(path, limit=WEIGHTS_BYTES, error=ConfigError, what='--checkpoint')
    try:
        model.load_state_dict(load_state_dict(str(path)))
    except Exception as error:  # safetensors, torch and timm each raise their own
        raise ConfigError(f'--checkpoint {show_path(path)}: {cell(error, 300)}') from None


def _shape(args: argparse.Namespace, choice: RunChoice | None, data: Any, model: nn.Module) -> tuple[int, ...]:
    if choice is not None:
        return choice.input_shape
    declared = model.pretrained_cfg.get('input_size', (3, 224, 224))
    size = args.image_size or (data.image_size if data is not None else None)
    channels = args.channels or declared[0]
    return (1, channels, size, size) if size else (1, channels, *declared[1:])


# --- what fills the slots --------------------------------------------------------------------------------------------

def _what(args: argparse.Namespace, choice: RunChoice | None, original: nn.Module, example: Any,
          data: Any) -> tuple[dict[str, Any], list[Any]]:
    if choice is not None:
        return choice.fillings(original)
    from syno_nni.search_spaces.slots import KINDS, find_slots
    named = [_named(text) for text in args.operator]
    # Kinds that the operators name themselves are wanted too.
    kinds = args.kinds or ('auto' if args.budget or all(k == '*' for k, _ in named) else
                           ['auto', *(k for k, _ in named if k in KINDS)])
    if isinstance(kinds, list) and all(k in KINDS for k, _ in named):
        kinds = [k for k, _ in named]
    slots, excluded = find_slots(original, example, kinds=kinds, include=args.include, exclude=args.exclude,
                                 coefficients={'g': args.groups} if args.groups else None)
    if args.budget:
        return _choose(args, original, example, slots, [op for _, op in named], data), slots
    mapping = dict(named)
    from syno_nni.search_spaces.retrofit.retrofit import assign
    assign(mapping, slots, excluded, on_misfit='keep')  # names that mean nothing are errors, before anything slow
    return mapping, slots


def _named(text: str) -> tuple[str, Operator]:
    """``layer4.*=NAME`` as a pattern and an operator; a formula has ``=`` and a bracket before it."""
    from .find_operator import find_operator
    key, equals, rest = text.partition('=')
    if equals and '[' not in key:
        return key.strip(), find_operator(rest)[0]
    return '*', find_operator(text)[0]


def _choose(args: argparse.Namespace, original: nn.Module, example: Any, slots: list[Any], operators: list[Operator],
            data: Any) -> dict[str, Any]:
    from syno_nni import model_zoo
    from syno_nni.measure.latency import measure, measure_pair
    from syno_nni.operator import classics
    from syno_nni.search_spaces.retrofit.per_slot import Budget, choose_per_slot
    budget = Budget.parse(args.budget)
    runtime = (_runtimes(args.runtime) or ['eager'])[0]
    if not operators:
        operators = [model_zoo.load(name).operator for name in model_zoo.names()]
        operators += [classics.grouped_conv2d(), classics.low_rank_linear(), classics.grouped_linear()]

    def timer(candidate: nn.Module, baseline: nn.Module, x: Any) -> tuple[float, float]:
        pair = measure_pair(candidate, baseline, x, seconds=0.4, runtime=runtime, threads=args.threads)
        return pair.baseline.median_ms, pair.speedup

    score = _accuracy_of(data.val) if args.data else None
    batches = _fitting_images(data) if args.data else None
    whole = measure(original, example, runtime=runtime, threads=args.threads, seconds=1.0).median_ms
    chosen = choose_per_slot(original, slots, operators, budget, model_ms=whole, group_by=args.group_by, batches=batches,
                             score=score, timer=timer)
    by_id = {op.id: op for op in operators}
    known = {model_zoo.load(name).operator.id: name for name in model_zoo.names()}
    rows = [('group', 'slots', 'choice', 'ms', 'kept ms', 'loss')]
    for group, name in chosen.assignment.choices.items():
        option = next(o for o in chosen.options[group] if o.name == name)
        rows.append((group, str(len(chosen.groups[group])), known.get(name, name), f'{option.latency_ms:.3f}',
                     f'{chosen.options[group][0].latency_ms:.3f}', f'{option.loss:.3g}'))
    say(columns(rows, {1, 3, 4, 5}), end='\n\n')
    mapping = chosen.assignment.mapping(chosen.groups, by_id)
    if set(mapping.values()) == {'keep'}:
        raise ConfigError(f'--budget {args.budget}: the best choice keeps every layer; allow more loss or less latency')
    return mapping


# --- weights ---------------------------------------------------------------------------------------------------------

def _weights(args: argparse.Namespace, original: nn.Module, result: nn.Module, data: Any) -> dict[str, Any]:
    """Warm start and distillation, as far as there is something to start from; what was done, as evidence."""
    from syno_nni.search_spaces.retrofit.distill import Losses, distill
    from syno_nni.search_spaces.retrofit.warm_start import warm_start
    done: dict[str, Any] = {'weights': 'fresh'}
    started = args.checkpoint or args.pretrained or str(args.model).startswith(('local-dir:', 'hf-hub:'))
    if started:
        errors = warm_start(original, result, _fitting_images(data) if args.data else None)
        done = {'weights': 'warm start', 'slot_error': round(sum(errors.values()) / len(errors), 4)}
    if args.steps:
        from torch.utils.data import DataLoader
        losses = Losses(**_losses(args.losses))
        distill(original, result, DataLoader(data.train, 64, shuffle=True, drop_last=len(data.train) > 64),
                steps=args.steps, losses=losses, learning_rate=args.learning_rate)
        done['weights'] += f', {args.steps} steps of distillation'
    if args.data and (started or args.steps):
        done['accuracy'] = {
            'dataset': args.data, 'split': 'test', 'accuracy': _accuracy_of(data.test)(result) / 100,
            'baseline_accuracy': _accuracy_of(data.test)(original) / 100, 'recipe': f'Weights: {done["weights"]}.',
            'seeds': [0]}
    return done


def _fitting_images(data: Any) -> list[Any]:
    from torch.utils.data import DataLoader
    batches = iter(DataLoader(data.train, 64))
    return [batch for batch, _ in zip(batches, range(2), strict=False)]


def _accuracy_of(split: Any) -> Callable[[nn.Module], float]:
    """A function that scores models on a split, in percent."""
    def score(model: nn.Module) -> float:
        from syno_nni.nas.training import accuracy
        return 100 * accuracy(model, split)
    return score


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
        rows.append(('test accuracy', *(f'{100 * accuracy[key]:.2f} %' for key in ('baseline_accuracy', 'accuracy')), ''))
    error = f', error of the slots {evidence["slot_error"]:.3f}' if 'slot_error' in evidence else ''
    return f'{columns(rows, {1, 2})}\n\n{change["slots"]} slots filled; weights: {evidence["weights"]}{error}'
