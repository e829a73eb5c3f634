"""The parts of a search as NNI knows them: a model space, an evaluator, a strategy, an experiment."""
from pathlib import Path

from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.strategy import RegularizedEvolution, Strategy
from nni.runtime.log import silence_stdout

from syno_nni.nas.evaluator import OperatorEvaluator
from syno_nni.run.config import SearchConfig
from syno_nni.search_spaces.backbone import BackboneSpace
from syno_nni.strategies import SynoRandom

silence_stdout()                              # NNI's own log lines go to its log file only

# --8<-- [start:space]
space = BackboneSpace('test_resnet', (1, 1, 32, 32), {'preset': 'conv2d', 'macs_ratio': (0.15, 0.9)},
                      slots={'kinds': ['conv3x3']}, group_by='stage', in_chans=1, num_classes=10)
for label, choice in space.simplify().items():
    print(label, type(choice).__name__, len(space.groups[label]), 'slots')
# --8<-- [end:space]

# --8<-- [start:evaluator]
evaluator = OperatorEvaluator(SearchConfig.from_dict({
    'model': {'name': 'test_resnet'},
    'data': {'name': 'digits', 'imageSize': 32, 'channels': 1, 'trainSamples': 256, 'valSamples': 128},
    'evaluation': {'epochs': 1, 'learningRate': 5e-3, 'threads': 1},
    'latency': {'threads': 1, 'seconds': 0.2},
}).to_dict())
# --8<-- [end:evaluator]


# --8<-- [start:experiment]
def search(strategy: Strategy) -> NasExperiment:
    config = NasExperimentConfig('sequential', 'simplified')       # one process; 'ts' with 'local' runs NNI's manager
    config.max_trial_number = 3
    config.experiment_working_directory = str(Path('nni').absolute())
    experiment = NasExperiment(space, evaluator, strategy, config)
    experiment.run(port=None)
    return experiment


ours = search(SynoRandom(seed=0, max_trials=2))
for outcome in ours.strategy.history:
    print(outcome.candidate.number, outcome.kind.value, sorted(outcome.metrics)[:4])
# --8<-- [end:experiment]

# --8<-- [start:theirs]
theirs = search(RegularizedEvolution(population_size=2, sample_size=1))
[best] = theirs.export_top_models(1, formatter='dict')
print(sorted(best))
# --8<-- [end:theirs]
