#!/usr/bin/env python3
"""Whether measuring in turns is honest: the ratio of two models timed together against that of the two timed alone.

    python benchmarks/measurer.py --runtime eager onnx openvino [--threads 2]

Written to docs/measurements/measuring.md. Run it on a quiet machine: alone, a model is at the mercy of whatever else happens.
"""
from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from kernels import host, wait_until_quiet
from torch import nn

import syno_nni as sn
from syno_nni.measure import RUNTIMES
from syno_nni.measure.lock import measurement_lock
from syno_nni.measure.runtime import Rounds
from syno_nni.measure.runtimes import missing, time_in

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / 'docs' / 'measurements' / 'measuring.md'
OPERATOR = ('out[n:N, o:C_out, h:H, w:H] = sum[r:g, c:C_in/g, i:k_1, j:k_1, d:C_out/g/s] '
            'in[n, r*(C_in/g) + c, shift(unfold(h, i), 1), unfold(w, j)] * w1[o, r, i, d] * w2[j, d, r*(C_in/g) + c]')
HEAD = """# Is measuring in turns honest?

Candidate and baseline take turns in one process and one thread pool. The worry: sharing a process might favour one of
them, as it does where every onnxruntime session keeps a spinning pool of its own. So both are also measured alone, each
in a process of its own, and the ratios compared. Written by `benchmarks/measurer.py`.

"""


def models(backbone: str) -> tuple[list[nn.Module], torch.Tensor]:
    """A backbone, and the same with an operator in its slots."""
    import timm
    from timm.utils.model import reparameterize_model
    x = torch.randn(1, 3, 224, 224)
    baseline = timm.create_model(backbone).eval()
    candidate = sn.retrofit(baseline, sn.Operator.parse(OPERATOR), example_input=x).eval()
    return [reparameterize_model(candidate), baseline], x


def median_ratio(timings: list[list[float]]) -> float:
    return float(np.median(timings[1]) / np.median(timings[0]))


def row(runtime: str, pair: list[nn.Module], x: torch.Tensor, options: argparse.Namespace) -> str:
    """One line of the table."""
    threads, rounds = torch.get_num_threads(), Rounds(max_rounds=400, seconds=options.seconds)
    wait_until_quiet(options.quiet)
    with measurement_lock():
        together = time_in(runtime, pair, x, threads=threads, rounds=rounds).timings_ms
        alone = [time_in(runtime, [model], x, threads=threads, rounds=rounds).timings_ms[0] for model in pair]
    spread = max((np.percentile(t, 75) - np.percentile(t, 25)) / np.median(t) for t in (*together, *alone))
    a, b = median_ratio(together), median_ratio(alone)
    return (f'| {runtime} | {np.median(together[0]):.2f}, {np.median(together[1]):.2f} | {np.median(alone[0]):.2f}, '
            f'{np.median(alone[1]):.2f} | {a:.2f} | {b:.2f} | {a / b - 1:+.0%} | {spread:.0%} |')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runtime', nargs='+', choices=RUNTIMES, default=['eager', 'onnx', 'openvino'])
    parser.add_argument('--backbone', default='resnet18')
    parser.add_argument('--threads', type=int, default=0)
    parser.add_argument('--seconds', type=float, default=4.0)
    parser.add_argument('--quiet', type=float, default=0.0, help='wait for a load below this before each line')
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    pair, x = models(options.backbone)
    machine = host()
    rows = [row(runtime, pair, x, options) for runtime in options.runtime if not missing(runtime)]
    name = sn.Operator.parse(OPERATOR).id
    DOC.write_text(HEAD + f'{options.backbone} against itself with operator {name} in its slots, '
                   f'{machine["cpu"]}, {machine["threads"]} threads, load {os.getloadavg()[0]:.1f}; milliseconds are '
                   'candidate, baseline.\n\n| runtime | in turns, ms | alone, ms | ratio in turns | ratio alone | '
                   'difference | widest spread |\n|---|---|---|---|---|---|---|\n' + '\n'.join(rows) + '\n')
    print('\n'.join(rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
