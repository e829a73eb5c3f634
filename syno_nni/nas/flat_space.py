"""The form of a model that travels to trials and that the web UI shows."""
from __future__ import annotations

from dataclasses import asdict
from typing import Any

import nni
from nni.nas.space import ModelStatus, SimplifiedModelSpace

from . import plain_json  # noqa: F401 - formulas hold what NNI takes for comments
from .stages import Reference

_PAYLOAD, _REFERENCE = 'payload', 'reference'


class FlatModelSpace(SimplifiedModelSpace):
    """NNI's simplified model space with parameters that a person can read.

    NNI's own form is a nested object: the web UI shows ``[object Object]`` and useless axes. Here every choice is a
    column with its formula, and what NNI needs to make the model is one JSON string.
    """

    def _dump(self) -> dict[str, Any]:
        state = super()._dump()
        if self.status == ModelStatus.Initialized or not self.sample:
            return state
        # NNI sends the evaluator's arguments only, and these were not among them when it was made.
        reference = getattr(self.evaluator, 'reference', Reference())
        return {**self.sample, _PAYLOAD: nni.dump({**state, _REFERENCE: asdict(reference)})}

    @classmethod
    def _load(cls, **state: Any) -> FlatModelSpace:
        if _PAYLOAD in state:
            state = nni.load(state[_PAYLOAD])
        reference = Reference(**state.pop(_REFERENCE, {}))
        model = super()._load(**state)
        if hasattr(model.evaluator, 'reference'):
            model.evaluator.reference = reference
        # NNI leaves a plain string, on which the methods of the status fail.
        model.status = ModelStatus(model.status)
        return model
