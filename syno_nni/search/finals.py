"""The last part of a search by retrofit: the few that come near the wanted accuracy are healed for long, fastest first, and the
winner is written as a folder."""
from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import syno_nni.model_zoo as model_zoo
from syno_nni.model_zoo.card import folder_card
from syno_nni.model_zoo.evidence import change, versions
from syno_nni.nas.flat_space import FlatModelSpace
from syno_nni.nas.signals import stop_if_asked
from syno_nni.nas.stages import Reference
from syno_nni.run.config import SearchConfig
from syno_nni.run.journal import Journal
from syno_nni.run.records import Healed
from syno_nni.run.state import RunState, Trial
from syno_nni.search_spaces.retrofit.retrofit import slot_config

from .healing import RetrofitEvaluator, max_loss_of
from .library_run import Budget

WINNER = 'winner'
"""Folder in the run directory for the model that was found."""
REMAINS = 0.3
"""The part of the loss after a short healing that a long one leaves, as a rule; corrected by what is seen."""
MOST = 3
"""So many are healed for long."""
_SHARE = 0.55
# Of the time that is left, for each but the last.
_LEAST_FASTER = 1.02


def race(config: SearchConfig, journal: Journal, space: FlatModelSpace, evaluator: RetrofitEvaluator, budget: Budget,
         tell: Callable[[str], None]) -> None:
    """Heal candidates for long until the fastest is found that keeps the wanted accuracy, or the time is over."""
    wanted = max_loss_of(config.objective)
    for turn in range(MOST):
        stop_if_asked()
        state = journal.state
        trial = next_finalist(state, wanted)
        done = sum(bool(t.healed_metrics) for t in state.operators)
        if trial is None or done >= MOST:
            return
        left = budget.healing_s
        steps = config.evaluation.final_steps
        if left is not None:
            share = left if turn == MOST - 1 else _SHARE * left
            steps = int(share / _seconds_per_step(trial))
            if steps < config.evaluation.heal_steps:
                return
        tell(f'healing {trial.id} ({trial.metrics["speedup"]:.2f}x) for {steps} steps more')
        started = time.monotonic()
        model = evaluator.load(space.freeze(dict(trial.sample)))
        evaluator.heal(model, steps, seed=1 + turn)
        reached = round(evaluator.validate(model), 6)
        evaluator.keep(model, trial.id)
        baseline = state.baseline
        evaluator.reference = Reference(accuracy=baseline.metrics['accuracy'] if baseline else None)
        known = {**trial.metrics, 'accuracy': reached}
        journal.append(Healed(id=trial.id, metrics={
            'default': evaluator.score(known), 'accuracy': reached, 'healed_accuracy': trial.metrics['accuracy'],
            'steps': trial.metrics.get('steps', 0) + steps, 'final_seconds': round(time.monotonic() - started, 2)}))


def next_finalist(state: RunState, wanted: float) -> Trial | None:
    """The candidate to heal next: the fastest that should end within the wanted loss and is faster than what did."""
    if state.baseline is None:
        return None
    original = state.baseline.metrics['accuracy']
    finals = [t for t in state.measured if t.healed_metrics]
    open_ = [t for t in state.measured if not t.healed_metrics]
    left = [(original - t.metrics['accuracy']) / (original - t.healed_metrics['healed_accuracy']) for t in finals
            if original - t.healed_metrics['healed_accuracy'] > 0.002]
    remains = min(max(sum(left) / len(left), 0.1), 1.0) if left else REMAINS
    good = [t.metrics['speedup'] for t in finals if original - t.metrics['accuracy'] <= wanted]
    bad = [t.metrics['speedup'] for t in finals if original - t.metrics['accuracy'] > wanted]

    def expected(trial: Trial) -> float:
        loss = original - trial.metrics['accuracy']
        return loss * remains if loss > 0 else loss

    hopeful = [t for t in open_ if expected(t) <= wanted and t.metrics['speedup'] > _LEAST_FASTER * max(good, default=1.0)
               and t.metrics['speedup'] < min(bad, default=math.inf)]
    if hopeful:
        return max(hopeful, key=lambda t: t.metrics['speedup'])
    return None if finals else min(open_, key=expected, default=None)


def _seconds_per_step(trial: Trial) -> float:
    return max(trial.metrics.get('heal_seconds', 1.0) / max(trial.metrics.get('steps', 1), 1), 1e-3)


def write_winner(config: SearchConfig, journal: Journal, space: FlatModelSpace, evaluator: RetrofitEvaluator, run_dir: Path,
                 tell: Callable[[str], None]) -> Path | None:
    """Write the best candidate as a folder in the run directory, which timm or :func:`syno_nni.load` reads."""
    best = journal.state.best
    if best is None:
        return None
    model = evaluator.load(space.freeze(dict(best.sample)))
    folder, size = run_dir / WINNER, evaluator.input_shape[1:]
    evidence = _evidence(journal.state, best, config, evaluator, model) | {'candidate': best.id, 'run': run_dir.name}
    if config.model.factory is None and not config.model.name.startswith('local-dir:'):
        card = folder_card(WINNER, config.model.name, slot_config(model), evidence)
        model_zoo.save_folder(model, folder, base=config.model.name, input_size=size, evidence=evidence, card=card)
    else:
        card = folder_card(WINNER, config.model.title, slot_config(model), evidence, factory=config.model.factory or '')
        model_zoo.save_module(model, folder, name=config.model.title, input_size=size, evidence=evidence, card=card)
    tell(f'the winner is in {folder}')
    return folder


def _evidence(state: RunState, best: Trial, config: SearchConfig, evaluator: RetrofitEvaluator, model: nn.Module,
              ) -> dict[str, Any]:
    """What the model card tells."""
    original = state.baseline
    base, base_test = (original.metrics, original.test_metrics) if original is not None else ({}, {})
    found = best.metrics
    split = 'test' if 'accuracy' in best.test_metrics and 'accuracy' in base_test else 'validation'
    ours, theirs = (best.test_metrics, base_test) if split == 'test' else (found, base)
    example = torch.zeros(config.latency.batch_size, *evaluator.input_shape[1:])
    return {
        'versions': dict(versions()), 'change': change(evaluator.original, model, evaluator.slots, example),
        'latency': [{**{k: found[k] for k in ('baseline_latency_ms', 'latency_ms', 'speedup', 'speedup_low', 'speedup_high')
                        if k in found}, 'noisy': bool(found.get('noisy')), 'runtime': config.latency.runtime,
                     'threads': config.latency.threads, 'input': list(example.shape), 'cpu': state.environment.get('cpu')}],
        'accuracy': {'dataset': config.data.title, 'split': split, 'accuracy': ours.get('accuracy'),
                     'baseline_accuracy': theirs.get('accuracy'), 'seeds': [config.evaluation.seed],
                     'recipe': f'Fitted to the layers, then distilled from the original for {found.get("steps")} batches of '
                               f'{config.data.batch_size}.'}}
