"""Whole models at batch 1, 224x224: the original, retrofits, and the original in int8, in every runtime.

    python benchmarks/models.py --threads 1      # all that has no row yet, as stored; half an hour on a quiet machine
    python benchmarks/models.py --seconds 150    # a slice of it; repeat until it says that all is done
    python benchmarks/models.py --models 'resnet18*' --again

Every row is one retrofit in one runtime, its deploy form in turns with the original; onnxruntime and OpenVINO have a
process of their own (syno_nni.measure). The int8 row is the original quantized after training by onnxruntime (QDQ,
per channel, calibrated on random images, which is enough for latency), in turns with the float32 original there.
Weights are random: they do not matter to latency. Results: results/models.json, table: docs/measurements/latency.md.
"""
from __future__ import annotations

import argparse
import fnmatch
import json
import math
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from harness import DOCS, RESULTS, TimeSlice, read_results, write_results

from syno_nni import model_zoo
from syno_nni.errors import SynoError
from syno_nni.measure import RUNTIMES
from syno_nni.measure.lock import measurement_lock
from syno_nni.measure.onnx import export_onnx
from syno_nni.measure.turns import take_turns
from syno_nni.model_zoo import gains as zoo_gains
from syno_nni.model_zoo.evidence import change, speedup
from syno_nni.model_zoo.gains import Gain, Row
from syno_nni.search_spaces.slots import find_slots

PATH = RESULTS / 'models.json'
FAMILIES = ('resnet18', 'resnet34', 'densenet121', 'resnext29_2x64d', 'tf_efficientnetv2_s')
SHAPE = (1, 3, 224, 224)


def one(name: str, runtime: str, seconds: float, threads: int | None) -> dict[str, Any]:
    torch.manual_seed(0)
    entry = model_zoo.load_retrofit(name)
    original = timm.create_model(entry.base).eval()
    result = timm.create_model(name, img_size=224).eval()
    example = torch.randn(SHAPE)
    try:
        slots = find_slots(original, example, kinds='all')[0]
        return change(original, result, slots, example) | speedup(original, result, example, runtime=runtime,
                                                                  seconds=seconds, threads=threads)
    except SynoError as error:
        return {'runtime': runtime, 'error': ' '.join(str(error).split())}


def int8(base: str, seconds: float, threads: int | None) -> dict[str, Any]:
    """The original in float32 and in int8, both in onnxruntime, in turns in this process."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
    x = torch.randn(SHAPE)

    class Random(CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self.left = [{name: np.random.randn(*SHAPE).astype(np.float32)} for _ in range(4)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, small = (str(Path(folder) / n) for n in ('plain.onnx', 'ready.onnx', 'int8.onnx'))
        export_onnx(timm.create_model(base).eval(), x, Path(plain))
        quant_pre_process(plain, ready)
        name = onnxruntime.InferenceSession(plain).get_inputs()[0].name
        quantize_static(ready, small, Random(name), per_channel=True, activation_type=QuantType.QUInt8,
                        weight_type=QuantType.QInt8)
        threads = threads or torch.get_num_threads()
        onnxruntime.set_global_thread_pool_sizes(threads, 1)
        options = onnxruntime.SessionOptions()
        options.use_per_session_threads = False
        sessions = [onnxruntime.InferenceSession(p, options, providers=['CPUExecutionProvider']) for p in (small, plain)]
        calls = [lambda s=s: s.run(None, {name: x.numpy()}) for s in sessions]
        with measurement_lock():
            fast, slow = take_turns(calls, warmup=3, min_rounds=15, max_rounds=200, seconds=seconds)
    low, median, high = np.percentile(np.array(slow) / np.array(fast), (25, 50, 75))
    return {'runtime': 'onnx', 'precision': 'int8', 'threads': threads, 'latency_ms': round(float(np.median(fast)), 3),
            'baseline_latency_ms': round(float(np.median(slow)), 3), 'speedup': round(float(median), 3),
            'speedup_low': round(float(low), 3), 'speedup_high': round(float(high), 3),
            'noisy': bool((high - low) / median > 0.2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', default='*', help='name patterns of retrofits, separated by commas')
    parser.add_argument('--runtimes', default=','.join((*RUNTIMES, 'int8')))
    parser.add_argument('--again', action='store_true', help='measure what has a row too')
    parser.add_argument('--each', type=float, default=3.0, help='seconds per measurement')
    parser.add_argument('--threads', type=int, help="(default: torch's)")
    parser.add_argument('--seconds', type=float, default=1e9, help='stop after this time')
    parser.add_argument('--claims', action='store_true', help="write the measured rows into the zoo's descriptions and stop")
    parser.add_argument('--one', nargs=2, metavar=('NAME', 'RUNTIME'), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, runtime = options.one
        row = (int8(name, options.each, options.threads) if runtime == 'int8' else
               one(name, runtime, options.each, options.threads))
        print(json.dumps(row))
        return 0
    slice_ = TimeSlice(options.seconds)
    rows = read_results(PATH).get('rows', {})
    if options.claims:
        write_claims(rows)
        return 0
    retrofits = [name for name in model_zoo.retrofit_names() if model_zoo.load_retrofit(name).base in FAMILIES]
    wanted = [(name, runtime) for runtime in options.runtimes.split(',')
              for name in (FAMILIES if runtime == 'int8' else retrofits) if matches(name, options.models)]
    for name, runtime in wanted:
        key = f'{name}/{runtime}'
        if key in rows and not options.again:
            continue
        if slice_.over:
            (DOCS / 'measurements' / 'latency.md').write_text(document(rows), encoding='utf-8')
            print('to be continued')
            return 0
        # One process for every measurement: nothing of an earlier runtime is left in it.
        done = subprocess.run([sys.executable, __file__, '--one', name, runtime, '--each', str(options.each),
                               *(['--threads', str(options.threads)] if options.threads else [])],
                              capture_output=True, text=True, check=False)
        rows[key] = (json.loads(done.stdout.splitlines()[-1]) if not done.returncode else
                     {'runtime': runtime, 'error': ' '.join(done.stderr.split())[-300:]})
        rows[key] |= {'name': name}
        print(key, rows[key].get('speedup', rows[key].get('error')), flush=True)
        write_results(PATH, 'python benchmarks/models.py', {'rows': rows})
    (DOCS / 'measurements' / 'latency.md').write_text(document(rows), encoding='utf-8')
    print('all done')
    return 0


def write_claims(rows: dict[str, Any]) -> None:
    """What was measured without noise becomes what the zoo claims, with its conditions."""
    keys = ('runtime', 'threads', 'input', 'precision', 'latency_ms', 'baseline_latency_ms', 'speedup', 'speedup_low',
            'speedup_high', 'noisy', 'cpu', 'date')
    for name in model_zoo.retrofit_names():
        claims = [{k: r[k] for k in keys if k in r} for r in rows.values()
                  if r['name'] == name and 'speedup' in r and not r['noisy']]
        if claims:
            replace_claims(name, 'speedup', claims)


def replace_claims(name: str, kind: str, claims: list[dict[str, Any]]) -> None:
    """Put ``claims`` in the place of those that have the key ``kind`` in a zoo model's description."""
    path = Path(__file__).parent.parent / 'model_zoo' / 'models' / f'{name}.json'
    data = json.loads(path.read_text())
    data['claims'] = [c for c in data.get('claims', []) if kind not in c] + claims
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + '\n')


def of_zoo(rows: dict[str, Any]) -> list[Row]:
    """The measured rows of retrofits, beside which are those of the originals in int8."""
    return [(r['name'], model_zoo.load_retrofit(r['name']).base, r) for r in rows.values()
            if 'speedup' in r and r['name'] not in FAMILIES]


def gains(rows: dict[str, Any]) -> dict[str, Gain]:
    """What every measured retrofit gains."""
    return zoo_gains.gains(of_zoo(rows))


def matches(name: str, patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(name, p) for p in patterns.split(','))


def document(rows: dict[str, Any]) -> str:
    """The tables: the best retrofit of each family, and all of them."""
    threads = sorted({r['threads'] for r in rows.values() if 'threads' in r})
    noisy = sum(bool(r.get('noisy')) for r in rows.values())
    lines = ['# Latency of whole models', '',
             f'Batch 1, 224x224, float32, {" or ".join(map(str, threads))} thread(s) of the CPU that',
             '`benchmarks/results/models.json` names; written by `benchmarks/models.py --threads 1`. A retrofit is in its',
             'deploy form; it takes turns with the original in the same runtime. Weights are random: accuracy is in',
             '[another table](accuracy.md).',
             f'{noisy} of {len(rows)} measurements were disturbed by other work on the machine and are marked noisy: trust',
             'their ratios less, and no absolute time. Runtimes without a number have not been measured.', '',
             '## Best retrofit against the original in its best measured runtime', '',
             '| family | original, best of the runtimes measured | retrofit | ms | speedup | original in int8, onnxruntime |',
             '|---|---|---|---|---|---|']
    found = gains(rows)
    best = []
    for base in FAMILIES:
        own = {name: gain for name, gain in found.items() if model_zoo.load_retrofit(name).base == base}
        if not own:
            continue
        name = max(own, key=lambda name: own[name].speedup)
        gain = own[name]
        best.append(gain.speedup)
        quantized = rows.get(f'{base}/int8', {})
        rival = (f'{quantized["speedup"]:.2f}x of float32 there' if 'speedup' in quantized else
                 f'failed: {quantized["error"][:80]}' if quantized else 'not measured')
        original = zoo_gains.originals(row for row in of_zoo(rows) if row[1] == base)
        runtime = min(original, key=original.__getitem__)
        lines.append(f'| {base} | {original[runtime]:.1f} ms, {runtime} (of {", ".join(sorted(original))}) | '
                     f'{name}, {gain.runtime} | {gain.ms:.1f} | {gain.speedup:.2f}x | {rival} |')
    if best:
        lines += ['', f'Geometric mean: **{math.prod(best) ** (1 / len(best)):.2f}x** over {len(best)} families.', '']
    lines += ['## All retrofits', '', 'Speedup in the same runtime (median over the turns, quartiles behind it).', '',
              f'| retrofit | MACs | params | {" | ".join(RUNTIMES)} |', '|---|---|---|' + '---|' * len(RUNTIMES)]
    for name in dict.fromkeys(r['name'] for r in rows.values() if r['runtime'] != 'int8' and r.get('precision') != 'int8'):
        cells = [rows.get(f'{name}/{runtime}', {}) for runtime in RUNTIMES]
        facts = next((c for c in cells if 'macs' in c), None)
        sizes = [f'{facts[k] / facts[f"baseline_{k}"]:.2f}x' for k in ('macs', 'params')] if facts else ['', '']
        lines.append(f'| {name} | {" | ".join(sizes)} | {" | ".join(map(cell, cells))} |')
    failures = [f'- {r["name"]}, {r["runtime"]}: {r["error"][:200]}' for r in rows.values() if 'error' in r]
    return '\n'.join([*lines, '', '## Failures', '', *(failures or ['None.'])]) + '\n'


def cell(row: dict[str, Any]) -> str:
    if 'speedup' not in row:
        return 'failed' if 'error' in row else ''
    return f'{row["speedup"]:.2f} ({row["speedup_low"]:.2f}-{row["speedup_high"]:.2f})' + ' noisy' * bool(row['noisy'])


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    sys.exit(main())
