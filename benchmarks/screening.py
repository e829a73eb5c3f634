#!/usr/bin/env python3
"""Screening: operators per second that are synthesized, canonical and fitted in all 3x3 slots, and where the time goes.

    python benchmarks/screening.py                    # both models, 40 operators each
    python benchmarks/screening.py --models resnet20 --operators 100
    python benchmarks/screening.py --docs             # the table only

One process, one thread. Fitted means that the data-free error of the operator against the layer is known in every slot
(`KernelFits.errors`). Fits do not depend on whether weights are trained, so these are random. Seconds are CPU time, which
what else runs on the machine does not change much; the wall clock is beside it. Results: results/screening.json, and
docs/measurements/screening.md.
"""
from __future__ import annotations

import argparse
import sys
import time
import warnings
from typing import Any

import numpy as np
import torch
from harness import DOCS, RESULTS, fill_in, read_results, write_results
from torch import nn

from syno_nni import OperatorSpace
from syno_nni.errors import SlotError
from syno_nni.search_spaces.retrofit import kernel_fit
from syno_nni.search_spaces.retrofit.kernel_solver import Solver
from syno_nni.search_spaces.slots import bindings, find_slots

PATH = RESULTS / 'screening.json'
WANTED = {'resnet20': 10.0, 'resnet18': 1.0}
STAGES = ('synthesis', 'striding', 'tables', 'target', 'solving', 'rest')


def resnet20() -> tuple[nn.Module, int, dict[str, Any]]:
    """16, 32 and 64 channels in three stages of six 3x3 convolutions on 32x32 images."""
    class Block(nn.Module):
        def __init__(self, channels: int, out: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
            self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
            self.stride, self.more = stride, out - channels

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            x = nn.functional.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, 0, self.more))
            return torch.relu(x + y)

    plan = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
    blocks = [Block(*([c, o, s] if n == 0 else [o, o, 1])) for c, o, s in plan for n in range(3)]
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks,
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return model, 32, {'kinds': 'conv3x3', 'coefficients': {'g': 8}}


def resnet18() -> tuple[nn.Module, int, dict[str, Any]]:
    import timm
    return timm.create_model('resnet18'), 224, {'kinds': 'conv3x3'}


class Clock:
    """CPU seconds by stage; what a stage calls of another counts for that one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.inside = ['rest']
        self.since = time.process_time()

    def switch(self) -> None:
        now = time.process_time()
        self.seconds[self.inside[-1]] += now - self.since
        self.since = now

    def timed(self, stage: str, function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self.inside.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self.inside.pop()
        return run


def one(name: str, operators: int, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model, size, options = {'resnet20': resnet20, 'resnet18': resnet18}[name]()
    slots, _ = find_slots(model.eval(), (1, 3, size, size), **options)
    space = OperatorSpace.preset('conv2d', bindings=bindings(slots), macs_ratio=(0.1, 0.9))
    completer = space.completer(np.random.default_rng(seed))
    fits = kernel_fit.KernelFits(model, slots)
    clock = Clock()
    kept = (kernel_fit.offset_in, kernel_fit.problem_of, Solver._target, Solver.solve)
    kernel_fit.offset_in = clock.timed('striding', kept[0])
    kernel_fit.problem_of = clock.timed('tables', kept[1])
    Solver._target = clock.timed('target', kept[2])  # type: ignore[method-assign]
    Solver.solve = clock.timed('solving', kept[3])  # type: ignore[method-assign]
    draw = clock.timed('synthesis', lambda: completer.complete(space.root, thorough=False))
    each: list[float] = []
    seen: set[str] = set()
    wall, start = time.monotonic(), time.process_time()
    clock.since = start
    while len(seen) < operators:
        began = time.process_time()
        op = draw()
        if op is None or op.canonical.id in seen:
            continue
        try:
            errors = fits.errors(op.canonical)
        except SlotError:
            continue
        assert len(errors) == len(slots), f'{len(errors)} of {len(slots)} slots for {op}'
        seen.add(op.canonical.id)
        each.append(time.process_time() - began)
        print(name, len(seen), f'{each[-1]:.3f} s', op, flush=True)
    clock.switch()
    spent, wall = time.process_time() - start, time.monotonic() - wall
    kernel_fit.offset_in, kernel_fit.problem_of = kept[0], kept[1]
    Solver._target, Solver.solve = kept[2], kept[3]  # type: ignore[method-assign]
    return {'slots': len(slots), 'shapes': len({tuple(s.sizes.items()) + s.stride for s in slots}), 'operators': len(seen),
            'cpu_seconds': round(spent, 3), 'wall_seconds': round(wall, 3), 'per_cpu_second': round(len(seen) / spent, 2),
            'median_ms': round(1000 * float(np.median(each)), 1), 'p90_ms': round(1000 * float(np.quantile(each, 0.9)), 1),
            'slowest_ms': round(1000 * max(each), 1),
            'ms_by_stage': {k: round(1000 * v / len(seen), 1) for k, v in clock.seconds.items()}}


def table(results: dict[str, Any]) -> str:
    lines = ['| model | 3x3 slots, shapes | operators per second of a core | wanted on two cores | ms per operator: median '
             '| 90 % | slowest | ' + ' | '.join(STAGES) + ' |', '|' + '---|' * (7 + len(STAGES))]
    for name, row in results['models'].items():
        stages = ' | '.join(f'{row["ms_by_stage"][k]:.0f}' for k in STAGES)
        lines.append(f'| {name} | {row["slots"]}, {row["shapes"]} | {row["per_cpu_second"]:.1f} | {WANTED[name]:.0f} | '
                     f'{row["median_ms"]:.0f} | {row["p90_ms"]:.0f} | {row["slowest_ms"]:.0f} | {stages} |')
    commands = ', '.join(f'`{row["command"]}`' for row in results['models'].values())
    counts = ' and '.join(str(row['operators']) for row in results['models'].values())
    return '\n'.join([*lines, '', f'{counts} operators of the preset `conv2d`, 0.1 to 0.9 of the MACs of the layers '
                      f'replaced, one process, on {results["environment"]["cpu"]}. {commands}.'])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', choices=[*WANTED], default=[*WANTED])
    parser.add_argument('--operators', type=int, default=40)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--docs', action='store_true', help='write the table from what is stored')
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.docs:
        results = {'models': read_results(PATH).get('models', {})}
        for name in options.models:
            command = f'python benchmarks/screening.py --models {name} --operators {options.operators} --seed {options.seed}'
            results['models'][name] = {**one(name, options.operators, options.seed), 'command': command}
        write_results(PATH, ' '.join(['python benchmarks/screening.py', *sys.argv[1:]]), results)
    fill_in(DOCS / 'measurements' / 'screening.md', 'screening', table(read_results(PATH)))
    return 0


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    sys.exit(main())
