"""A preset of one's own: operators for maps with channels last, checked by the conformance suite."""
import numpy as np

from syno_nni.synthesis import OperatorSpace, Variable
from syno_nni.synthesis.presets import PRESETS, Preset
from syno_nni.testing.spaces import OperatorSpaceSuite

# --8<-- [start:preset]
PRESETS['channels_last'] = Preset(
    inputs=('N', 'H', 'H', 'C_in'), outputs=('N', 'H', 'H', 'C_out'),
    variables=(Variable('N', 0), Variable('H', 0), Variable('C_in', 2), Variable('C_out', 4),
               Variable('k_1', 2, False, 3), Variable('s', 2, False, 2), Variable('g', 3, False, 32)),
    layer='out[n:N, h:H, w:H, o:C_out] = sum[c:C_in, i:k_1, j:k_1] in[n, unfold(h, i), unfold(w, j), c] * w1[o, c, i, j]',
    bindings=({'N': 1, 'H': 14, 'C_in': 192, 'C_out': 192}, {'N': 1, 'H': 7, 'C_in': 384, 'C_out': 384}),
    unordered_inputs=frozenset({3}), unordered_outputs=frozenset({3}), limits={'steps': 8})

space = OperatorSpace.preset('channels_last', macs_ratio=(0.05, 0.7))
rng = np.random.default_rng(0)
for _ in range(3):
    op = space.sample(rng)
    print(f'{space.macs_over_layer(op):.2f} of the MACs  {op}')
# --8<-- [end:preset]


# --8<-- [start:check]
class TestChannelsLast(OperatorSpaceSuite):           # in a test file, pytest finds it
    samples = 4

    @classmethod
    def make_space(cls) -> OperatorSpace:
        return OperatorSpace.preset('channels_last', macs_ratio=(0.05, 0.7))


suite = TestChannelsLast()
checks = [name for name in dir(suite) if name.startswith('test_')]
for name in checks:
    getattr(suite, name)()
print(f'passes all {len(checks)} checks')
# --8<-- [end:check]
