"""Measuring a zoo model's claims again: does what its file says hold on this machine?"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch

from syno_nni.backbone import create_backbone
from syno_nni.environment import cpu_name

from . import timm_models  # noqa: F401  registers the models
from .evidence import speedup
from .retrofits import Retrofit

HOLDS, FAILS, UNCLEAR, ERROR = 'holds', 'does not hold', 'unclear', 'cannot be measured'
ELSEWHERE = 'cannot be checked here'
"""The claim is for another processor or number of threads: what is measured here neither confirms nor refutes it."""
SLACK = 0.9
"""A claimed speedup holds here if at least this part of it is measured: a part of the difference is noise."""


@dataclass(frozen=True)
class Verdict:
    """A claim, what was measured here, and what that means. ``measured`` is empty where nothing could be."""
    claim: Mapping[str, Any]
    measured: Mapping[str, Any]
    verdict: str
    reason: str


def verify(entry: Retrofit, *, runtime: str | None = None, threads: int | None = None, seconds: float = 3.0,
           progress: Callable[[list[dict[str, Any]]], Iterable[Mapping[str, Any]]] = iter) -> list[Verdict]:
    """Measure every claimed speedup of a zoo model again, the retrofit in turns with the original.

    Args:
        entry: the model.
        runtime: only claims of this runtime; where there is none, it is measured without a claim to compare with.
        threads: None for the claim's own number, or torch's.
        seconds: for each measurement.
        progress: gets the claims and gives them back one by one, such as ``tqdm``.
    """
    claims = [c for c in entry.claims if c.get('speedup') and runtime in (None, c.get('runtime'))]
    if not claims:
        claims = [{'runtime': runtime or 'eager'}]
    size = entry.input_size or (3, 224, 224)
    example = torch.randn(1, *size)
    original = create_backbone(entry.base, **entry.base_args).eval()
    result = timm.create_model(entry.name, img_size=size[1:]).eval()
    return [_check(claim, original, result, example, threads, seconds) for claim in progress(claims)]


def _check(claim: Mapping[str, Any], original: Any, result: Any, example: Any, threads: int | None,
           seconds: float) -> Verdict:
    try:
        measured = speedup(original, result, example, runtime=claim['runtime'], threads=threads or claim.get('threads'),
                           seconds=seconds)
    except Exception as error:  # a missing runtime, a failed export: the reason is the answer
        return Verdict(claim, {}, ERROR, ' '.join(str(error).split())[:200])
    return Verdict(claim, measured, *judge(claim, measured))


def judge(claim: Mapping[str, Any], measured: Mapping[str, Any]) -> tuple[str, str]:
    """The verdict on a claimed speedup, and why.

    It holds where the measured median reaches ``SLACK`` of it. Where it does not, but the measurement is noisy and its
    upper quartile does, nothing can be told; nor where the claim is for another processor or number of threads.
    """
    if not claim.get('speedup'):
        return UNCLEAR, 'nothing is claimed for this runtime'
    wanted = claim['speedup']
    got = f'{measured["speedup"]:.2f}x here, {wanted:.2f}x claimed'
    other = _other_conditions(claim, measured)
    if measured['speedup'] >= SLACK * wanted:
        return HOLDS, got + (f' with {other}' if other else '')
    if other:
        return ELSEWHERE, f'{got} with {other}; nothing here confirms or refutes it'
    if measured['noisy'] and measured['speedup_high'] >= SLACK * wanted:
        return UNCLEAR, f'{got}; the measurement is noisy, try again on a quiet machine or with more --seconds'
    return FAILS, got


def _other_conditions(claim: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """What a claim was measured with that differs here, or ''. One that names no processor is for all of them."""
    cpu = claim.get('cpu')
    if cpu not in (None, measured.get('cpu', cpu_name())):
        return f'another processor ({cpu})'
    threads = claim.get('threads')
    return '' if threads in (None, measured.get('threads', threads)) else f'{threads} threads'
