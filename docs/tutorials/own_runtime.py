"""A runtime of one's own: the graph that torch.export makes, interpreted."""
import numpy as np
import torch
from torch import Tensor, nn

import syno_nni as sn
from syno_nni.errors import MeasureError
from syno_nni.measure.runtime import InProcess, Rounds
from syno_nni.measure.turns import Call
from syno_nni.testing.runtimes import RUNTIME_CHECKS


# --8<-- [start:runtime]
class Exported(InProcess):
    """Exports the module for the shape of the example."""
    name = 'exported'

    def prepare(self, model: nn.Module, example: Tensor) -> Call:
        try:
            exported = torch.export.export(model, (example,)).module()
        except Exception as error:
            raise MeasureError(f'the model does not export: {type(error).__name__}: {error}') from error
        return lambda: exported(example)


RUNTIME = Exported()
# --8<-- [end:runtime]

# --8<-- [start:check]
for check in RUNTIME_CHECKS:
    check(RUNTIME)
print(f'passes all {len(RUNTIME_CHECKS)} checks')
# --8<-- [end:check]

# --8<-- [start:use]
torch.manual_seed(0)
torch.set_num_threads(1)
sizes = {'N': 1, 'C_in': 64, 'C_out': 64, 'H': 28, 'k_1': 3, 'g': 4, 's': 2}
models = [sn.SynthesizedLayer(sn.classics.operator_2(), sizes).fuse(), nn.Conv2d(64, 64, 3, padding=1, bias=False)]
example = torch.randn(1, 64, 28, 28)
timed = RUNTIME.time(models, example, threads=1, rounds=Rounds(seconds=0.5))

for name, model, timings, output in zip(('operator', 'convolution'), models, timed.timings_ms, timed.outputs):
    with torch.inference_mode():
        error = np.abs(output - model(example).numpy()).max()
    print(f'{name:12} {np.median(timings):.2f} ms per call, differs from eager torch by {error:.1f}')
# --8<-- [end:use]
