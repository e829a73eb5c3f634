"""Whether predicted latencies rank operators as measured ones do: hundreds of operators in slots of real models, per runtime.

    python benchmarks/predicted.py --measure onnx eager openvino inductor   # what is missing in results/predicted.csv
    python benchmarks/predicted.py --fit                                    # constants of syno_nni/measure, from one half
    python benchmarks/predicted.py                                          # docs/measurements/predicted.md

Operators are halved by their ids: constants are fitted on one half, the table is of the other.
"""
from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import chains
import numpy as np
import torch
from harness import DOCS, RESULTS, read_results, small_resnet, write_results
from scipy.stats import spearmanr
from timm import create_model
from timm.utils.model import reparameterize_model
from torch import nn

import syno_nni.measure
from syno_nni.errors import SynoError
from syno_nni.measure import RUNTIMES
from syno_nni.measure.cost_model import GENERIC, CostModel, fitted
from syno_nni.measure.features import NAMES, Features, features
from syno_nni.measure.work import work_of
from syno_nni.model_zoo import entries
from syno_nni.operator import Operator, classics
from syno_nni.search_spaces.coefficients import fitting
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.slots import Slot, find_slots
from syno_nni.synthesis.space import OperatorSpace

ROWS, OPERATORS, HOST = RESULTS / 'predicted.csv', RESULTS / 'predicted_operators.csv', RESULTS / 'predicted.json'
ORIGINAL = 'original'
SLOTS = {
    'resnet20': ('layer1.1.conv1', 'layer2.1.conv1', 'layer3.1.conv1', 'layer2.0.conv1'),
    'resnet18': ('layer1.0.conv1', 'layer2.1.conv1', 'layer3.1.conv1', 'layer4.1.conv1'),
    'resnet50': ('layer3.1.conv1', 'layer2.1.conv3'),
}
"""Layers of one shape each; those of resnet50 are 1x1."""
RANDOM, SMALL, MUTATED, POINTWISE = 130, 110, 80, 200
RESNET20 = [{'N': 1, 'C_in': c, 'C_out': c, 'H': h, 'k_1': 3, 'k_2': 7, 's': 2, 'g': 16}
            for c, h in ((16, 32), (32, 16), (64, 8))]
LENGTH = 20
WIDE = 30.0
"""How far a price may be from the guess, relative."""
FEW = 10
"""Fewer operators give no rank correlation."""
DOC = DOCS / 'measurements' / 'predicted.md'
WORDS = {'random': 'random', 'small': 'random for the small network', 'pointwise': 'random for 1x1 layers',
         'mutated': 'mutated', 'published': 'published', 'classic': 'classic'}
HEAD = """# Do predicted latencies rank operators?

A search screens hundreds of operators by `syno_nni.measure.cost_model` before it runs any. Here operators are measured in slots
of real models, batch 1, one thread, and their predicted latency is compared: {origins}, and the original layers.

In a cell: Spearman's rank correlation of predicted and measured latency on operators that constants were **not** fitted on; in
parentheses how many operators these are, their median relative error, and correlation and number of the other half, which
constants that are fitted on this one predict. Constants are fitted on one half, by the operators' ids, for all slots of a
runtime at once; they are those that the package ships. *all slots* ranks across slots too, which is easier than within one.

{table}

Every operator stands in a chain of 20 between two 1x1 convolutions, with a relu behind it, so that changes of layout count;
its time is that from the end of the one to the start of the other by the runtime's own profiler (in eager torch by the
processor time of the thread, so that nothing else counts), the low end of many runs. What a profiler itself costs is in it.

What these numbers do not show: another CPU, more threads, larger batches; sums over whole models. The machine was busy with
other work, which the slots with large maps suffer from most: a run of some milliseconds is seldom left alone.

OpenVINO counts whole microseconds, which on small maps is a tenth of an operator. The width of the prior was chosen with both
halves in sight.

{rows} measurements are in `benchmarks/results/predicted.csv`, on {cpu}, by
`{command}`; operators are in `predicted_operators.csv`. Written by
`benchmarks/predicted.py`.
"""
PRICES = Path(syno_nni.measure.__file__).parent / 'prices.json'


# ---- what is measured ----

@cache
def model(name: str) -> tuple[nn.Module, dict[str, Slot]]:
    """A model and its slots by name."""
    torch.manual_seed(0)
    net = small_resnet((3, 3, 3, 1), 16) if name == 'resnet20' else create_model(name)
    found, _ = find_slots(net, (1, 3, 32, 32) if name == 'resnet20' else (1, 3, 224, 224), kinds='all')
    return net.eval(), {slot.name: slot for slot in found}


def slot_names() -> list[str]:
    return [f'{net}/{layer}' for net, layers in SLOTS.items() for layer in layers]


def slot_of(name: str) -> tuple[Slot, nn.Module]:
    """A slot and its layer, with the default coefficients."""
    net, layer = name.split('/')
    module, slots = model(net)
    return slots[layer], module.get_submodule(layer)


def pool() -> dict[str, tuple[str, Operator]]:
    """Operators by id, with where they are from; drawn once, then stored."""
    if OPERATORS.exists():
        with OPERATORS.open(newline='') as file:
            return {row['operator']: (row['origin'], Operator.parse(row['formula'])) for row in csv.DictReader(file)}
    rng = np.random.default_rng(0)
    found: dict[str, tuple[str, Operator]] = {}

    def add(origin: str, op: Operator) -> None:
        found.setdefault(op.id, (origin, op))

    for name in entries.names():
        add('published', entries.load(name).operator)
    for op in classic():
        add('classic', op)
    space = OperatorSpace.preset('conv2d', macs_ratio=(0.01, 1.3), complexity=0.5)
    while sum(origin == 'random' for origin, _ in found.values()) < RANDOM:
        add('random', space.sample(rng))
    parents = [op for origin, op in found.values()]
    while sum(origin == 'mutated' for origin, _ in found.values()) < MUTATED:
        try:
            add('mutated', space.mutate(parents[rng.integers(len(parents))], rng))
        except SynoError:
            continue  # a classic or published operator outside of the space
    space = OperatorSpace.preset('pointwise', macs_ratio=(0.01, 1.5), complexity=0.5)
    while sum(origin == 'pointwise' for origin, _ in found.values()) < POINTWISE:
        add('pointwise', space.sample(rng))
    space = OperatorSpace.preset('conv2d', bindings=RESNET20, macs_ratio=(0.01, 1.3), complexity=0.5)
    while sum(origin == 'small' for origin, _ in found.values()) < SMALL:
        add('small', space.sample(rng))
    with OPERATORS.open('w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['operator', 'origin', 'formula'])
        writer.writerows([op_id, origin, str(op)] for op_id, (origin, op) in found.items())
    return pool()


def classic() -> Iterator[Operator]:
    yield from (classics.conv2d(), classics.grouped_conv2d(), classics.grouped_conv2d(2), classics.grouped_conv2d(4),
                classics.grouped_conv2d(8), classics.depthwise(), classics.depthwise_separable(), classics.pointwise(),
                classics.dilated_conv2d(), classics.separable(), classics.low_rank(), classics.low_rank('C_out/4'),
                classics.shift_conv(), classics.operator_1(), classics.operator_2(), classics.nas_pte_3())


def candidates(slot: str, operators: dict[str, tuple[str, Operator]]) -> dict[str, Operator]:
    """The operators of the pool that are for a slot: drawn for 1x1 layers or for others."""
    narrow = slot_of(slot)[0].kind == 'pointwise'
    return {op_id: op for op_id, (origin, op) in operators.items()
            if origin in ('published', 'classic') or (origin == 'pointwise') == narrow}


def filled(op: Operator, slot: Slot) -> nn.Module:
    """The operator in the slot, as it is deployed.

    Raises:
        SynoError: it does not fit.
    """
    return reparameterize_model(FilledSlot.of(op, fitting(op, slot)).eval())


# ---- measuring ----

def measure(runtime: str, slots: Sequence[str], seconds: float, most: int) -> None:
    """Measures what is missing, at most so many operators in a slot; rows are stored chain by chain."""
    operators = pool()
    for name in slots:
        known = {row['operator'] for row in rows() if (row['runtime'], row['slot']) == (runtime, name)}
        slot, layer = slot_of(name)
        todo: list[tuple[str, nn.Module]] = [] if ORIGINAL in known else [(ORIGINAL, layer)]
        left = most - len(known)
        wanted = list(candidates(name, operators).items())
        random.Random(name).shuffle(wanted)
        for op_id, op in wanted:
            if op_id in known or len(todo) >= left:
                continue
            try:
                todo.append((op_id, filled(op, slot)))
            except SynoError:
                continue
            except RuntimeError as error:
                print(f'{name}: {op_id} does not build: {error}', flush=True)
        random.Random(1).shuffle(todo)
        for at in range(0, len(todo), LENGTH):
            started = time.monotonic()
            batch = todo[at:at + LENGTH]
            done = measured(runtime, slot, batch, seconds)
            with ROWS.open('a', newline='') as file:
                csv.writer(file, lineterminator='\n').writerows(
                    [runtime, name, op_id, f'{ms:.5f}'] for (op_id, _), ms in zip(batch, done) if ms is not None)
            print(runtime, name, f'{at + len(batch)} of {len(todo)}', f'{time.monotonic() - started:.1f} s', flush=True)


def measured(runtime: str, slot: Slot, batch: Sequence[tuple[str, nn.Module]], seconds: float) -> list[float | None]:
    """Milliseconds of each layer; None of one that the runtime does not take, which halving finds."""
    side = slot.sizes['H'], slot.sizes.get('W', slot.sizes['H'])
    torch.manual_seed(0)
    try:
        chain = chains.Chain([layer for _, layer in batch], (slot.sizes['C_in'], *slot.input_size),
                             (slot.sizes['C_out'], *side)).calibrate()
        return chains.GAPS[runtime](chain, seconds)
    except Exception as error:  # whatever a runtime or its exporter raises
        if len(batch) == 1:
            print(f'{runtime}: {batch[0][0]}: {type(error).__name__}: {error}'[:300], flush=True)
            return [None]
        half = len(batch) // 2
        return measured(runtime, slot, batch[:half], seconds) + measured(runtime, slot, batch[half:], seconds)


def rows() -> list[dict[str, Any]]:
    """What has been measured."""
    if not ROWS.exists():
        ROWS.write_text('runtime,slot,operator,ms\n')
    with ROWS.open(newline='') as file:
        return [{**row, 'ms': float(row['ms'])} for row in csv.DictReader(file)]


# ---- fitting ----

def half(op_id: str) -> int:
    """0 for operators that constants are fitted on, and for original layers; 1 for those that are predicted."""
    return 0 if op_id == ORIGINAL else int(op_id, 16) % 2


def layer_features(slot_name: str, op_id: str, operators: dict[str, tuple[str, Operator]]) -> Features:
    slot, layer = slot_of(slot_name)
    module = layer if op_id == ORIGINAL else FilledSlot.of(operators[op_id][1], fitting(operators[op_id][1], slot))
    return features(work_of(module, (1, slot.sizes['C_in'], *slot.input_size)))


def guess(runtime: str) -> dict[str, float]:
    """Prices to begin with, in milliseconds: what a core of some GHz does; the measurements may move each far."""
    by_unit = {'calls': 5e-3 if runtime == 'eager' else 2e-3, 'macs': 2e-8, 'bytes': 5e-8, 'weights': 5e-8, 'runs': 1e-6,
               'lines': 1e-6, 'groups': 3e-4, 'count': 3e-4}
    return {name: by_unit[name.rsplit('.', 1)[1]] * (0.1 if name == 'view.calls' else 1) for name in NAMES}


def fit() -> None:
    """Writes the constants, from one half of the operators."""
    operators, found = pool(), rows()
    prices: dict[str, dict[str, float]] = {}
    for runtime in sorted({row['runtime'] for row in found}):
        known = [(layer_features(row['slot'], row['operator'], operators), row['ms']) for row in found
                 if row['runtime'] == runtime and half(row['operator']) == 0]
        prices[runtime] = rounded(fitted(known, guess(runtime), WIDE))
        print(runtime, len(known), 'measurements')
    prices[GENERIC] = rounded({name: statistics.median(p[name] for p in prices.values()) for name in NAMES})
    host = read_results(HOST)
    PRICES.write_text(json.dumps({'format': 1, 'command': 'python benchmarks/predicted.py --fit', 'unit': 'ms',
                                  'environment': host['environment'], 'runtimes': prices}, indent=1) + '\n')


# ---- the table ----

def report() -> None:
    """Writes the page: rank correlations on operators that constants were not fitted on."""
    operators, found = pool(), rows()
    known = {key: layer_features(*key, operators) for key in {(row['slot'], row['operator']) for row in found}}
    cells: dict[tuple[str, str], str] = {}
    for runtime in RUNTIMES:
        shipped = CostModel.of(runtime)
        mine = [row for row in found if row['runtime'] == runtime]
        # The other way round too: constants fitted on the half that is held out otherwise.
        swapped = CostModel(runtime, fitted([(known[row['slot'], row['operator']], row['ms']) for row in mine
                                             if half(row['operator']) == 1], guess(runtime), WIDE)) if mine else shipped
        for name in ('all', *slot_names()):
            here = [row for row in mine if name in ('all', row['slot'])]
            parts = [[(model.ms(known[row['slot'], row['operator']]), row['ms'], row['operator']) for row in here
                      if half(row['operator']) == number] for model, number in ((shipped, 1), (swapped, 0))]
            cells[runtime, name] = cell(parts)
    lines = ['| slot | ' + ' | '.join(RUNTIMES) + ' |', '|---' * (len(RUNTIMES) + 1) + '|']
    for name in ('all', *slot_names()):
        lines.append(f'| {described(name)} | ' + ' | '.join(cells[runtime, name] for runtime in RUNTIMES) + ' |')
    origins = Counter(operators[row['operator']][0] for row in {r['operator']: r for r in found}.values()
                      if row['operator'] != ORIGINAL)
    host = read_results(HOST)
    DOC.write_text(HEAD.format(
        table='\n'.join(lines), command=host['command'], rows=len(found),
        origins=', '.join(f'{n} {WORDS[origin]}' for origin, n in sorted(origins.items())),
        cpu=host['environment'].get('cpu', 'one machine')), encoding='utf-8')


def cell(parts: list[list[tuple[float, float, str]]]) -> str:
    """Correlation, operators, typical error of the held-out half; correlation with the halves swapped."""
    held, other = parts
    if len(held) < FEW:
        return f'{len(held)} measured' if held else ''
    rank = spearmanr([p for p, _, _ in held], [ms for _, ms, _ in held])[0]
    error = statistics.median(abs(p / ms - 1) for p, ms, _ in held)
    swapped = spearmanr([p for p, _, _ in other], [ms for _, ms, _ in other])[0]
    return f'{rank:.2f} ({distinct(held)}, {error:.0%}; {swapped:.2f} of {distinct(other)})'


def distinct(part: list[tuple[float, float, str]]) -> int:
    return len({op for _, _, op in part})


def described(name: str) -> str:
    if name == 'all':
        return 'all slots'
    slot = slot_of(name)[0]
    kernel = '1x1, ' if slot.kind == 'pointwise' else ''
    stride = f', stride {max(slot.stride)}' if slot.stride and max(slot.stride) > 1 else ''
    return f"{name.split('/')[0]}: {kernel}{slot.sizes['C_in']} to {slot.sizes['C_out']} at {slot.sizes['H']}{stride}"


def rounded(prices: dict[str, float]) -> dict[str, float]:
    return {name: float(f'{prices[name]:.3g}') for name in NAMES}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--measure', nargs='+', choices=RUNTIMES, default=[])
    parser.add_argument('--fit', action='store_true', help='write the constants that are shipped')
    parser.add_argument('--slots', nargs='+', choices=slot_names(), default=slot_names())
    parser.add_argument('--seconds', type=float, default=1.5, help='for a chain of 20 operators')
    parser.add_argument('--most', type=int, default=1000, help='operators in a slot')
    options = parser.parse_args()
    torch.set_num_threads(1)
    for runtime in options.measure:
        measure(runtime, options.slots, options.seconds, options.most)
    if options.measure:
        write_results(HOST, 'python benchmarks/predicted.py --measure ' + ' '.join(RUNTIMES), {})
    if options.fit:
        fit()
    if not options.measure and not options.fit:
        report()
    return 0


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    sys.exit(main())
