"""A search that takes seconds, as a program: ``python searching.py RUN_DIR {new,resume} ENGINE PORT TRIALS SECONDS``.

Candidates come from the toy space. With SECONDS > 0 nothing is trained: an evaluation only takes that long, and its
metrics follow from the formula.
"""
from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from syno_nni.run.config import SearchConfig

CONFIG: dict[str, Any] = {
    'model': {'name': 'resnet10t', 'channels': [8, 8, 8, 8], 'stem_width': 8},
    'data': {'imageSize': 32, 'trainSamples': 64, 'valSamples': 64, 'batchSize': 32},
    'strategy': {'name': 'evolution', 'seed': 3, 'classArgs': {'warm_up': 2}},
    'evaluation': {'epochs': 1}, 'latency': {'warmup': 1, 'minRounds': 2, 'seconds': 0.01},
}


def make_config(**changes: Any) -> SearchConfig:
    """The configuration of the search."""
    return SearchConfig.from_dict({**CONFIG, **changes})


def without_training(seconds: float) -> None:
    """In this process nothing is trained: an evaluation only takes that long, and its metrics follow from the formula."""
    import toy

    from syno_nni.nas.evaluator import OperatorEvaluator

    def metrics(self: OperatorEvaluator, model: Any) -> dict[str, float]:
        time.sleep(seconds)
        return toy.landscape(model.net.sample)

    OperatorEvaluator.build = lambda self, model: type('Built', (), {'net': model})
    OperatorEvaluator.metrics = metrics
    OperatorEvaluator.test = lambda self, model: {'accuracy': 0.5, 'val_accuracy': 0.5}


def main(run_dir: str, mode: str, engine: str, port: str, trials: str, seconds: str) -> None:
    import toy

    from syno_nni.search.run import run_search
    toy.install()
    if float(seconds):
        without_training(float(seconds))
    config = make_config(engine=engine, port=int(port), maxTrialNumber=int(trials))
    run_search(config, Path(run_dir), resume=mode == 'resume', tell=lambda line: print(line, flush=True))


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parent))
    main(*sys.argv[1:])
