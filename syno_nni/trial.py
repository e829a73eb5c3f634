"""The trial of every experiment, ``syno-nni search`` and ``nnictl`` alike: ``python -m syno_nni.trial``.

It makes the model from the formulas and the configuration among its parameters, which are plain data; nothing in them is
imported, called or unpickled.
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from syno_nni.errors import EngineError, SynoError, shown

if TYPE_CHECKING:
    from syno_nni.nas.stages import Reference
    from syno_nni.run.config import SearchConfig


def main() -> None:
    """Evaluate the operators that NNI's manager has chosen for this process, and report the metrics."""
    from syno_nni.nas.launch import end_with, own_parameters
    end_with(os.getppid())
    own_parameters()
    import nni
    parameters = nni.get_next_parameter()
    config, reference = read_payload(parameters)
    from syno_nni.nas.waiting import wait_asleep
    wait_asleep(config.latency.threads)
    from syno_nni.nas.flat_space import FlatModelSpace
    from syno_nni.search.evaluators import evaluator_of
    from syno_nni.search_spaces.backbone import backbone_space
    evaluator = evaluator_of(config)
    evaluator.reference = reference()
    space = backbone_space(config, evaluator.data)
    sample = read_sample(parameters, space.groups)
    FlatModelSpace.from_model(space, evaluator).recreate(sample).execute()


def read_payload(parameters: Any) -> tuple[SearchConfig, Any]:
    """The configuration among a trial's parameters, and a function that makes its :class:`~syno_nni.nas.stages.Reference`
    (which needs torch).

    Raises:
        SynoError: they are not what ``syno_nni.nas.messages.trial_parameters`` makes.
    """
    from syno_nni.nas.messages import PAYLOAD, decode, plain
    from syno_nni.run.config import SearchConfig
    if not isinstance(parameters, Mapping) or PAYLOAD not in parameters:
        raise EngineError(f'the parameters of the trial have no {PAYLOAD}: they come from no search of ours')
    payload = plain(decode(parameters[PAYLOAD]), 'the payload of the trial')
    if not isinstance(payload, Mapping):
        raise EngineError(f'the payload of the trial should be a mapping, got {shown(payload)}')
    config = SearchConfig.from_dict(payload.get('config'), 'the parameters of the trial')

    def reference() -> Reference:
        from syno_nni.nas.stages import Reference
        known = payload.get('reference')
        fields = dict(known) if isinstance(known, Mapping) else {}
        numbers = [fields.get('proxy_accuracy') or 0.0, fields.get('accuracy') or 0.0, *(fields.get('curve') or ())]
        if set(fields) - {'proxy_accuracy', 'curve', 'accuracy'} or not all(_is_number(n) for n in numbers):
            raise EngineError(f'the reference of the trial is malformed: {shown(known)}')
        return Reference(fields.get('proxy_accuracy'), tuple(fields.get('curve') or ()), fields.get('accuracy'))

    return config, reference


def read_sample(parameters: Mapping[str, Any], labels: Iterable[str]) -> dict[str, str]:
    """The value of every choice: a canonical formula, or ``keep``.

    Raises:
        SynoError: one is missing, or is something else.
    """
    from syno_nni.nas.mutable import KEEP
    from syno_nni.operator import Operator
    sample = {}
    for label in labels:
        value = parameters.get(label)
        if not isinstance(value, str):
            raise EngineError(f'the parameters of the trial: {label} should be a formula or {KEEP!r}, got {shown(value)}')
        try:
            sample[label] = value if value == KEEP else str(Operator.parse(value))
        except SynoError as error:
            raise EngineError(f'the parameters of the trial: {label}: {error}') from None
        if sample[label] != value:
            raise EngineError(f'the parameters of the trial: {label}: the formula {shown(value)} is not canonical')
    return sample


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


if __name__ == '__main__':
    main()
