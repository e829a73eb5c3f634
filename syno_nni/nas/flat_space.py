"""The form of a model that travels to trials and that the web UI shows."""
from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict

from nni.nas.space import ModelStatus, SimplifiedModelSpace

from syno_nni.errors import EngineError

from .evaluator import OperatorEvaluator
from .messages import trial_parameters
from .stages import Reference


class FlatModelSpace(SimplifiedModelSpace):
    """NNI's simplified model space with parameters that a person can read and that hold no code.

    NNI's own form is a nested object with the names of classes and functions, which whoever reads it imports and calls; the
    web UI shows ``[object Object]`` and useless axes. Here every choice is a column with its formula, and the configuration
    that the model is made from is one JSON string: a trial makes the model from these (``syno_nni.trial``).
    """

    def parameters(self) -> dict[str, str]:
        """What the trial of a frozen model gets.

        Raises:
            EngineError: the evaluator is not ours: no trial could make it from plain data.
        """
        if not isinstance(self.evaluator, OperatorEvaluator) or self.sample is None:
            raise EngineError(f'trials of their own need a frozen model with an OperatorEvaluator, got {self.status} with '
                              f'{type(self.evaluator).__name__}; the sequential engine takes any evaluator')
        # The evaluator has learnt the reference since it was made.
        reference = getattr(self.evaluator, 'reference', Reference())
        return trial_parameters(self.sample, self.evaluator.config.to_dict(), asdict(reference))

    def recreate(self, sample: Mapping[str, str]) -> FlatModelSpace:
        """The model of a sample that was frozen in another process. It is not looked up in the space again, which takes long
        and may have changed."""
        model = type(self)(self.model, self.mutables, self.evaluator)
        model.status, model.sample = ModelStatus.Frozen, deepcopy(dict(sample))
        return model
