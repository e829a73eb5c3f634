"""Which evaluator an experiment file asks for."""
from __future__ import annotations

from syno_nni.data.splits import Splits
from syno_nni.nas.evaluator import OperatorEvaluator
from syno_nni.run.config import SearchConfig

from .healing import RetrofitEvaluator


def evaluator_of(config: SearchConfig, data: Splits | None = None) -> OperatorEvaluator:
    """The evaluator of an experiment file: candidates start from the original's weights, or are trained from scratch. ``data``
    are those of the file, where they have been read already."""
    evaluator = (RetrofitEvaluator if config.retrofits else OperatorEvaluator)(config.to_dict())
    if data is not None:
        evaluator.data = data
    return evaluator
