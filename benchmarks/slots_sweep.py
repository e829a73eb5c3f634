"""Find slots in many timm architectures, fill them, and check what a user would do next.

    python benchmarks/slots_sweep.py                     # all models, results/slots_sweep.csv and .json
    python benchmarks/slots_sweep.py --models 'resnet*'  # some; rows without error are kept, --again repeats all

For every model, at its own input size: slots of the default kinds, classic operators in them (grouped 3x3 and depthwise
convolutions, grouped linear layers for pointwise ones), then forward, backward into every operator, config and
state_dict round trip, and torch.export with a numeric check. A failure is a row with its reason.
"""
from __future__ import annotations

import argparse
import collections
import csv
import fnmatch
import gc
import json
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import timm
import torch

from syno_nni.errors import SynoError
from syno_nni.operator import Operator, classics
from syno_nni.search_spaces.filled_slot import misfit
from syno_nni.search_spaces.retrofit.retrofit import apply_slot_config, filled_slots, retrofit, slot_config
from syno_nni.search_spaces.slot_table import quantity
from syno_nni.search_spaces.slots import Excluded, Slot, find_slots

RESULTS = Path(__file__).parent / 'results'
TABLE = Path(__file__).parent.parent / 'docs' / 'measurements' / 'tested_models.md'
MODELS = """
resnet10t resnet18 resnet34 resnet50 resnet26d resnext50_32x4d seresnext26d_32x4d ecaresnet26t skresnet18
res2net50_14w_8s densenet121 dla34 vgg11_bn ese_vovnet19b_slim cspresnet50 selecsls42 nf_resnet50 hgnetv2_b0
mobilenetv2_050 mobilenetv3_small_050 mobilenetv3_large_100 mobilenetv4_conv_small mnasnet_small fbnetc_100
hardcorenas_a lcnet_050 tinynet_e ghostnet_100 repghostnet_050 rexnet_100 efficientnet_b0 efficientnet_lite0
tf_efficientnet_lite0 tf_efficientnetv2_b0 tf_efficientnetv2_s mixnet_s regnetx_002 regnety_002 regnetz_b16
repvgg_a0 mobileone_s0 fastvit_t8 repvit_m0_9 starnet_s1 mambaout_femto
convnext_atto convnextv2_atto convnext_tiny inception_next_atto poolformer_s12 caformer_s18 edgenext_xx_small
vit_tiny_patch16_224 deit_tiny_patch16_224 deit3_small_patch16_224 cait_xxs24_224 xcit_nano_12_p16_224 pit_ti_224
levit_128s mobilevit_xxs mobilevitv2_050 efficientformer_l1 tiny_vit_5m_224 efficientvit_b0 efficientvit_m0
swin_tiny_patch4_window7_224 pvt_v2_b0 twins_svt_small crossvit_tiny_240 coat_lite_tiny visformer_tiny davit_tiny
focalnet_tiny_srf mixer_s32_224 resmlp_12_224 gmlp_ti16_224
""".split()

COLUMNS = ['model', 'input', 'layers', 'slots', 'kinds', 'slot_macs_share', 'g', 'macs', 'params', 'macs_after',
           'params_after', 'forward', 'backward', 'state_dict', 'export', 'excluded', 'error', 'seconds']


def sweep_one(name: str, export: bool = True) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    row: dict[str, Any] = dict.fromkeys(COLUMNS, '')
    row['model'] = name
    started = time.monotonic()
    try:
        model = timm.create_model(name, num_classes=16)
        size = model.pretrained_cfg['input_size']
        x = torch.randn(2, *size)
        row['input'] = 'x'.join(map(str, size))
        slots, excluded = find_slots(model, x)
        describe(row, model, slots, excluded)
        result = retrofit(model, fillings(slots), x, slots=slots)
        row['macs_after'] = row['macs'] + sum(result.get_submodule(s.name).macs * s.calls - s.macs for s in slots)
        row['params_after'] = sum(p.numel() for p in result.parameters())
        check_steps(row, model, result, x, export)
    except Exception as error:  # a failure is a result
        row['error'] = f'{type(error).__name__}: {error}'.splitlines()[0][:300]
    row['seconds'] = round(time.monotonic() - started, 1)
    return row


def describe(row: dict[str, Any], model: torch.nn.Module, slots: list[Slot], excluded: list[Excluded]) -> None:
    kinds = collections.Counter(s.kind for s in slots)
    reasons = collections.Counter(e.reason for e in excluded)
    share = sum(s.share for s in slots)
    row |= {
        'layers': len(slots) + len(excluded), 'slots': len(slots), 'slot_macs_share': round(share, 4),
        'kinds': ' '.join(f'{k}:{n}' for k, n in sorted(kinds.items())), 'g': slots[0].sizes['g'] if slots else '',
        'macs': round(sum(s.macs for s in slots) / share) if slots else '',
        'params': sum(p.numel() for p in model.parameters()),
        'excluded': '; '.join(f'{n} x {reason}' for reason, n in reasons.most_common(4))}


def fillings(slots: list[Slot]) -> dict[str, Operator]:
    """A classic operator for every slot, by its kind."""
    convolution, depthwise, linear = classics.grouped_conv2d(), classics.depthwise(), classics.grouped_linear()

    def choose(slot: Slot) -> Operator:
        if slot.kind == 'depthwise' and not misfit(depthwise, slot):
            return depthwise
        return convolution if slot.kind in ('conv3x3', 'conv', 'grouped') and not misfit(convolution, slot) else linear

    return {slot.name: choose(slot) for slot in slots}


def check_steps(row: dict[str, Any], model: torch.nn.Module, result: torch.nn.Module, x: torch.Tensor,
                export: bool) -> None:
    """Fill the columns forward, backward, state_dict and export; the first failure raises."""
    with torch.no_grad():
        want = result.eval()(x)
    row['forward'] = 'yes' if torch.isfinite(want).all() else 'not finite'
    outputs = result.train()(x)
    torch.stack([t.square().mean() for t in (outputs if isinstance(outputs, (tuple, list)) else [outputs])]
                ).sum().backward()
    dead = [n for n, f in filled_slots(result).items() if any(p.grad is None for p in f.parameters())]
    row['backward'] = f'no gradient in {dead[0]}' if dead else 'yes'
    state = result.state_dict()
    again = apply_slot_config(model, json.loads(json.dumps(slot_config(result))))
    again.load_state_dict(state)
    with torch.no_grad():
        match = torch.allclose(again.eval()(x), result.eval()(x), atol=1e-5, rtol=1e-4)
    row['state_dict'] = 'yes' if match else 'differs'
    if export:
        with torch.no_grad():
            program = torch.export.export(result.eval(), (x,)).module()
            match = torch.allclose(program(x), result(x), atol=1e-4, rtol=1e-3)
        row['export'] = 'yes' if match else 'differs'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', default='*', help='name patterns, separated by commas')
    parser.add_argument('--again', action='store_true', help='repeat models that have a row')
    parser.add_argument('--no-export', action='store_true', help='skip torch.export')
    options = parser.parse_args()
    patterns = options.models.split(',')
    names = [m for m in MODELS if any(fnmatch.fnmatchcase(m, p) for p in patterns)]
    if not names:
        raise SynoError(f'no model of the sweep matches {options.models!r}')
    rows = {} if not (RESULTS / 'slots_sweep.json').exists() else {
        r['model']: r for r in json.loads((RESULTS / 'slots_sweep.json').read_text())['rows']}
    for name in names:
        if name in rows and not rows[name]['error'] and not options.again:
            continue
        rows[name] = sweep_one(name, export=not options.no_export)
        print(*[f'{k}={rows[name][k]}' for k in COLUMNS if k != 'excluded' and rows[name][k] != ''], flush=True)
        write(rows)
        gc.collect()
    passed = sum(r['export'] == 'yes' or (r['state_dict'] == 'yes' and not r['error']) for r in rows.values())
    print(f'{passed} of {len(rows)} architectures pass')
    return 0


def write(rows: dict[str, dict[str, Any]]) -> None:
    """The table as CSV for people and JSON with its provenance."""
    ordered = [rows[m] for m in MODELS if m in rows]
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / 'slots_sweep.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(ordered)
    provenance = {'command': 'python benchmarks/slots_sweep.py', 'python': platform.python_version(),
                  'torch': torch.__version__, 'timm': timm.__version__, 'seed': 0}
    (RESULTS / 'slots_sweep.json').write_text(json.dumps({**provenance, 'rows': ordered}, indent=1) + '\n')
    TABLE.write_text(markdown(ordered))


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table for the docs; a failed check shows its reason."""
    lines = [
        '# Tested architectures', '',
        'Written by `benchmarks/slots_sweep.py`: the default slots of each timm model filled with classic operators,',
        'at its own input size. *Passes*: forward, backward into every operator, the round trip through configuration',
        'and `state_dict`, and `torch.export` against eager. The classic operators show that slots work; the',
        'multiply-accumulates they save say nothing about accuracy.', '',
        '| model | input | slots of layers | kinds | MACs in slots | groups | MACs | passes |',
        '|---|---|---|---|---|---|---|---|']
    for r in rows:
        passes = all(r[step] == 'yes' for step in ('forward', 'backward', 'state_dict', 'export'))
        share = f'{r["slot_macs_share"]:.0%}' if r['slots'] else ''
        macs = f'{quantity(r["macs"])} → {quantity(r["macs_after"])}' if passes else ''
        kinds = ', '.join('{1} {0}'.format(*kind.split(':')) for kind in r['kinds'].split())
        verdict = 'yes' if passes else r['error'] or 'no'
        cells = [r['model'], r['input'], f'{r["slots"]} of {r["layers"]}', kinds, share, r['g'], macs, verdict]
        lines.append(f'| {" | ".join(map(str, cells))} |')
    passed = sum(line.endswith('| yes |') for line in lines)
    return '\n'.join([*lines, '', f'{passed} of {len(rows)} pass.']) + '\n'


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    sys.exit(main())
