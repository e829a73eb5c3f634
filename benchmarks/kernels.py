#!/usr/bin/env python3
"""Latency of the published operators at their slots' sizes: ours, the 3x3 convolution replaced, the original's scheme.

    python benchmarks/kernels.py [folder of published operators] --threads 1 --runtime eager onnx openvino --tune
    python benchmarks/kernels.py --report  # only rewrites docs/measurements/kernels.md, which names the others

The three take turns in one runtime, in one process; every output is checked against eager torch, and ours against the
definition's lowering in float64, before a number is kept. Results are appended as they come, so a run can be stopped
and taken up again: what is there is not measured anew.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import direct
import numpy as np
import torch
from kernels_original import OriginalScheme
from torch import nn

import syno_nni as sn
from syno_nni.errors import MeasureError
from syno_nni.measure import RUNTIMES
from syno_nni.measure.lock import measurement_lock
from syno_nni.measure.runtime import Rounds
from syno_nni.measure.runtimes import missing, time_in
from syno_nni.measure.turns import take_turns
from syno_nni.plan.kinds import KINDS

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / 'shared' / 'data' / 'published_operators'
RESULTS = ROOT / 'benchmarks' / 'results' / 'kernels.jsonl'
DOC = ROOT / 'docs' / 'measurements' / 'kernels.md'
WHO = ('ours', 'conv', 'original')
NOISY = 0.2


def slots(folder: Path, which: str) -> Iterator[tuple[str, sn.Operator, dict[str, int]]]:
    """Name, operator and binding at batch 1 of every slot (or of the first and the last of each operator)."""
    for path in sorted(folder.iterdir()):
        if not (path / 'facts.json').exists():
            continue
        facts = json.loads((path / 'facts.json').read_text())
        op = sn.load_graph_dot(path / 'graph.dot')
        found = [{**slot['sizes'], 'N': 1} for slot in facts['slots']]
        for sizes in found if which == 'all' else [found[0], found[-1]]:
            yield path.name, op, sizes


def checked_models(op: sn.Operator, sizes: dict[str, int], tune: str) -> dict[str, nn.Module]:
    """The three, ours in deploy form, after ours and the original's have given what the definition gives."""
    torch.manual_seed(0)
    layer = sn.SynthesizedLayer(op, sizes).eval()
    if tune:
        layer.tune(runtime=tune)
    original = OriginalScheme(op, sizes).eval()
    original.load_state_dict(layer.state_dict())
    conv = nn.Conv2d(sizes['C_in'], sizes['C_out'], 3, padding=1, bias=False).eval()
    x = torch.randn(op.input_shape(sizes), dtype=torch.float64)
    with torch.no_grad():
        fused = layer.fuse()
        want = direct.run(op, sizes, x, [w.double() for w in layer.weights])
        for name, got in (('ours', fused(x.float())), ('original', original(x.float()))):
            error = float((got - want).norm() / want.norm())
            if not error < 1e-4:
                raise MeasureError(f'{name} computes something else than the operator: relative error {error:.1e}')
    return {'ours': fused, 'conv': conv, 'original': original}


def measure(op: sn.Operator, sizes: dict[str, int], runtime: str, seconds: float, tune: str) -> dict[str, Any]:
    """Quartiles in milliseconds for each of the three, and the ratios of medians of rounds."""
    models = checked_models(op, sizes, tune)
    example = torch.randn(op.input_shape(sizes))
    timed = time_in(runtime, list(models.values()), example, threads=torch.get_num_threads(),
                    rounds=Rounds(max_rounds=400, seconds=seconds))
    plan = models['ours'].plan.program
    return {**summary(dict(zip(models, timed.timings_ms))), 'plan': [f'{s.kind}{list(s.shape)}' for s in plan.steps]}


def measure_training(op: sn.Operator, sizes: dict[str, int], batch: int, seconds: float) -> dict[str, Any]:
    """The same for a training step (forward and backward) in eager torch, and its peak of saved activations in MB."""
    sizes = {**sizes, 'N': batch}
    models = {'ours': sn.SynthesizedLayer(op, sizes), 'original': OriginalScheme(op, sizes),
              'conv': nn.Conv2d(sizes['C_in'], sizes['C_out'], 3, padding=1, bias=False)}
    x = torch.randn(op.input_shape(sizes), requires_grad=True)
    gradient = torch.randn(op.output_shape(sizes))

    def step(model: nn.Module) -> None:
        model.zero_grad(set_to_none=True)
        x.grad = None
        model(x).backward(gradient)

    calls = [lambda model=models[name]: step(model) for name in WHO]
    timings = take_turns(calls, warmup=2, min_rounds=5, max_rounds=50, seconds=seconds)
    return {**summary(dict(zip(WHO, timings))), 'saved_mb': {name: saved_megabytes(models[name], x) for name in WHO}}


def saved_megabytes(model: nn.Module, x: torch.Tensor) -> float:
    """What the forward pass keeps for the backward pass, parameters and input left out."""
    known = {x.untyped_storage().data_ptr(), *(p.untyped_storage().data_ptr() for p in model.parameters())}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return sum(kept.values()) / 1e6


def measure_calls(op: sn.Operator, sizes: dict[str, int], seconds: float, tune: str) -> dict[str, Any]:
    """What bounds ours in eager torch: the convolutions and matrix products of its plan alone, on inputs laid out ready."""
    models = checked_models(op, sizes, tune)
    ours, conv = models['ours'], models['conv']
    x = torch.randn(op.input_shape(sizes))
    program = ours.plan.program
    with torch.inference_mode():
        registers = dict(enumerate((x, *ours.constants)))
        calls = [lambda: ours(x), lambda: conv(x)]
        for step in program.steps:
            inputs = [registers[r] for r in step.inputs]
            registers[step.output] = KINDS[step.kind].run(*inputs, *step.arguments)
            if step.kind in ('conv', 'matmul', 'einsum'):
                ready = [t.contiguous() for t in inputs]
                calls.append(lambda call=KINDS[step.kind].run, given=(*ready, *step.arguments): call(*given))
        timings = take_turns(calls, warmup=5, min_rounds=15, max_rounds=400, seconds=seconds)
    ours_ms, conv_ms, *library = (float(np.median(t)) for t in timings)
    quartiles = np.percentile(timings[0], (25, 75))
    return {'ms': {'ours': ours_ms, 'conv': conv_ms, 'library calls': sum(library)}, 'rounds': len(timings[0]),
            'noisy': bool((quartiles[1] - quartiles[0]) / ours_ms > NOISY)}


def summary(timings: dict[str, list[float]]) -> dict[str, Any]:
    quartiles = {name: [float(q) for q in np.percentile(t, (25, 50, 75))] for name, t in timings.items()}
    ratio = {name: float(np.median(np.divide(timings[name], timings['ours']))) for name in ('conv', 'original')}
    noisy = any((high - low) / median > NOISY for low, median, high in quartiles.values())
    return {'ms': quartiles, 'speedup': ratio, 'rounds': len(timings['ours']), 'noisy': noisy}


def host() -> dict[str, Any]:
    """What the numbers hold for."""
    model = next((line.split(':')[1].strip() for line in Path('/proc/cpuinfo').read_text().splitlines()
                  if line.startswith('model name')), platform.processor()) if Path('/proc/cpuinfo').exists() else ''
    return {'cpu': model, 'cores': os.cpu_count(), 'threads': torch.get_num_threads(), 'precision': 'float32',
            'torch': torch.__version__, 'load': os.getloadavg()[0], 'peak_gflops': matmul_peak()}


def matmul_peak() -> float:
    """GFLOP/s of a square matrix product, the best of several."""
    a = torch.randn(1024, 1024)
    best = min(take_turns([lambda: a @ a], warmup=2, min_rounds=8, max_rounds=8, seconds=1)[0])
    return 2 * 1024 ** 3 / best / 1e6


def wait_until_quiet(limit: float, patience: float = 1800) -> None:
    """Waits for the one-minute load to fall below ``limit``, at most ``patience`` seconds."""
    started = time.monotonic()
    while limit and os.getloadavg()[0] > limit and time.monotonic() - started < patience:
        time.sleep(5)


def load_results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key(record: dict[str, Any]) -> tuple:
    return record['operator'], json.dumps(record['sizes'], sort_keys=True), record['runtime'], record['batch']


# ---- the report ----

def geomean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float('nan')


COMMANDS = ('--runtime eager onnx openvino --tune', '--runtime eager onnx openvino --tune --slots all --only resnet-',
            '--runtime inductor', '--runtime calls --tune', '--runtime training')
"""Options of the runs behind the stored results, each with ``--threads 1``."""


def report(records: list[dict[str, Any]]) -> str:
    """docs/measurements/kernels.md."""
    lines = ['# Kernels', '', 'Latency of the published operators at the sizes of their slots, written by '
             '`benchmarks/kernels.py`. *ours*: the plan that the optimiser picks, weights folded. *conv*: the 3x3 '
             "convolution that the operator replaces. *original*: the original's scheme, re-implemented from its "
             'description (unfold, einsum, one sum per reduction). All three take turns in one process; medians.', '', '```',
             *(f'python benchmarks/kernels.py --threads 1 {options}' for options in COMMANDS), '```', '']
    for runtime in [*RUNTIMES, 'training']:
        rows = [r for r in records if r['runtime'] == runtime]
        if not rows:
            continue
        machine = rows[-1]['host']
        batch = rows[0]['batch']
        lines += [f'## {runtime}, batch {batch}' + (' (forward and backward, eager)' if runtime == 'training' else ''),
                  '', f'{machine["cpu"]}, {machine["threads"]} threads, {machine["precision"]}, torch '
                  f'{machine["torch"]}; matrix product peak {machine["peak_gflops"]:.0f} GFLOP/s. '
                  f'Quartiles further apart than {NOISY:.0%} of the median mark a line as noisy (~).', '',
                  '| operator | C_in, C_out, H | ours ms | conv ms | original ms | MACs ratio | speedup over conv | '
                  'per MACs ratio | over original | ours GFLOP/s |' + (' saved MB ours, original |' if
                                                                      runtime == 'training' else ''),
                  '|---|---|---|---|---|---|---|---|---|---|' + ('---|' if runtime == 'training' else '')]
        for r in rows:
            s, ms = r['sizes'], {name: q[1] for name, q in r['ms'].items()}
            gain = r['speedup']['conv']
            rate = 2 * r['macs'] / ms['ours'] / 1e6 * (3 if runtime == 'training' else 1)
            lines.append(f'| {r["operator"]}{" ~" * r["noisy"]} | {s["C_in"]}, {s["C_out"]}, {s["H"]} | '
                         f'{ms["ours"]:.3f} | {ms["conv"]:.3f} | {ms["original"]:.3f} | {r["macs_ratio"]:.2f} | '
                         f'{gain:.2f} | {gain / r["macs_ratio"]:.2f} | {r["speedup"]["original"]:.2f} | {rate:.0f} |' +
                         (f' {r["saved_mb"]["ours"]:.1f}, {r["saved_mb"]["original"]:.1f} |' if runtime == 'training'
                          else ''))
        lines += ['', *verdict(rows), '']
    return '\n'.join([*lines, *bounds([r for r in records if r['runtime'] == 'calls'])])


def bounds(rows: list[dict[str, Any]]) -> list[str]:
    """What keeps ours from the MACs ratio."""
    if not rows:
        return []
    lines = ['## What bounds the plans (eager, batch 1)', '', 'The convolutions and matrix products of a plan, timed alone '
             'on inputs laid out ready, against the whole plan. Where nearly all time is in these calls, the plan is '
             "as fast as the library's kernels for its shapes: with fewer multiply-adds for each number loaded, they "
             'reach a smaller part of the peak than a 3x3 convolution.', '',
             '| operator | C_in, C_out, H | ours ms | in library calls | GFLOP/s in them | GFLOP/s of conv | peak |',
             '|---|---|---|---|---|---|---|']
    for r in rows:
        s, ms = r['sizes'], r['ms']
        lines.append(f'| {r["operator"]}{" ~" * r["noisy"]} | {s["C_in"]}, {s["C_out"]}, {s["H"]} | {ms["ours"]:.3f} | '
                     f'{min(1, ms["library calls"] / ms["ours"]):.0%} | {2 * r["macs"] / ms["library calls"] / 1e6:.0f} | '
                     f'{2 * r["macs"] * r["macs_ratio"] / ms["conv"] / 1e6:.0f} | {r["host"]["peak_gflops"]:.0f} |')
    return [*lines, '']


def verdict(rows: list[dict[str, Any]]) -> list[str]:
    families = sorted({r['operator'].split('-')[0] for r in rows})
    result = ['| family | speedup over conv, geomean | per MACs ratio, geomean | over original, geomean | worst |',
              '|---|---|---|---|---|']
    for family in [*families, 'all']:
        some = [r for r in rows if family in ('all', r['operator'].split('-')[0])]
        worst = min(some, key=lambda r: r['speedup']['original'])
        result.append(f'| {family} | {geomean([r["speedup"]["conv"] for r in some]):.2f} | '
                      f'{geomean([r["speedup"]["conv"] / r["macs_ratio"] for r in some]):.2f} | '
                      f'{geomean([r["speedup"]["original"] for r in some]):.2f} | '
                      f'{worst["operator"]} {worst["speedup"]["original"]:.2f} |')
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', nargs='?', type=Path, default=DATA)
    parser.add_argument('--runtime', nargs='+', choices=[*RUNTIMES, 'training', 'calls'], default=['eager'])
    parser.add_argument('--slots', choices=['all', 'ends'], default='ends', help='every slot, or each first and last')
    parser.add_argument('--only', default='', help="part of an operator's name")
    parser.add_argument('--batch', type=int, default=16, help='of the training step')
    parser.add_argument('--seconds', type=float, default=1.0, help='for each measurement')
    parser.add_argument('--threads', type=int, default=0, help='0: as many as torch uses')
    parser.add_argument('--quiet', type=float, default=0.0, help='wait for a load below this before each measurement')
    parser.add_argument('--tune', action='store_true', help='measure the best few plans in the runtime first')
    parser.add_argument('--out', type=Path, default=RESULTS)
    parser.add_argument('--report', action='store_true', help='measure nothing')
    options = parser.parse_args()
    if not options.report and not options.folder.is_dir():
        print(f'no published operators in {options.folder}: nothing to do')
        return 0
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.report:
        run(options)
    records = list({key(r): r for r in load_results(options.out)}.values())
    DOC.write_text(report(sorted(records, key=lambda r: (r['operator'], -r['sizes']['H']))))
    return 0


def run(options: argparse.Namespace) -> None:
    done = {key(r) for r in load_results(options.out)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for runtime in options.runtime:
        if runtime in RUNTIMES and (lacking := missing(runtime)):
            print(f'{runtime}: left out, needs {lacking}')
            continue
        machine = host()
        for name, op, sizes in slots(options.folder, options.slots):
            batch = options.batch if runtime == 'training' else 1
            record = {'operator': name, 'sizes': sizes, 'runtime': runtime, 'batch': batch}
            if options.only not in name or key(record) in done:
                continue
            wait_until_quiet(options.quiet)
            try:
                with measurement_lock():
                    if runtime == 'calls':
                        found = measure_calls(op, sizes, options.seconds, 'eager' if options.tune else '')
                    elif runtime == 'training':
                        found = measure_training(op, sizes, batch, options.seconds)
                    else:
                        found = measure(op, sizes, runtime, options.seconds, runtime if options.tune else '')
            except MeasureError as error:
                print(f'{name} {sizes}: {error}', file=sys.stderr)
                continue
            macs = op.macs({**sizes, 'N': batch})
            dense = batch * 9 * sizes['C_in'] * sizes['C_out'] * sizes['H'] ** 2
            record |= {**found, 'macs': macs, 'macs_ratio': dense / macs, 'tuned': options.tune,
                       'host': {**machine, 'load': os.getloadavg()[0]}}
            with options.out.open('a') as file:
                file.write(json.dumps(record) + '\n')
            if runtime == 'calls':
                print(name, sizes, found['ms'], flush=True)
                continue
            print(f'{runtime} {name} {sizes["C_in"]} {sizes["C_out"]} {sizes["H"]}: '
                  f'{record["speedup"]["conv"]:.2f}x conv (MACs {record["macs_ratio"]:.2f}x), '
                  f'{record["speedup"]["original"]:.2f}x original{" noisy" * record["noisy"]}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
