"""The trial of experiments that ``nnictl`` starts: ``python -m syno_nni.trial``."""
from __future__ import annotations

import json
import os


def main() -> None:
    """Evaluate the operators that NNI's manager has chosen for this process, and report the metrics."""
    from syno_nni.nas.launch import end_with, own_parameters
    end_with(os.getppid())
    own_parameters()
    import nni
    parameters = nni.get_next_parameter()
    payload = json.loads(parameters['payload'])
    from syno_nni.nas.waiting import wait_asleep
    from syno_nni.run.config import SearchConfig
    config = SearchConfig.from_dict(payload['config'], 'the parameters of the trial')
    wait_asleep(config.latency.threads)
    from syno_nni.nas.evaluator import OperatorEvaluator
    from syno_nni.nas.flat_space import FlatModelSpace
    from syno_nni.nas.stages import Reference
    from syno_nni.search_spaces.backbone import backbone_space
    evaluator = OperatorEvaluator(config.to_dict())
    evaluator.reference = Reference(**payload['reference'])
    space = backbone_space(config, evaluator.data)
    sample = {label: parameters[label] for label in space.groups}
    FlatModelSpace.from_model(space, evaluator).freeze(sample).execute()


if __name__ == '__main__':
    main()
