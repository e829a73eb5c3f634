"""From the convolution's formula to a synthesized operator, one step at a time."""
from pathlib import Path

import numpy as np

import syno_nni as sn
from syno_nni.operator.draw import draw, to_text_graph

# --8<-- [start:convolution]
conv = sn.Operator.parse(
    'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1, j:k_1] in[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]')
print(conv.loop_nest())
# --8<-- [end:convolution]

# --8<-- [start:sizes]
sizes = {'N': 1, 'C_in': 64, 'C_out': 64, 'H': 56, 'k_1': 3, 'g': 4, 's': 2}


def facts(name: str, op: sn.Operator) -> str:
    return (f'{name:28} {op.id}  {op.macs(sizes) / 1e6:6.1f} M multiply-adds  {op.params(sizes):6d} weights  '
            f'{"  ".join(map(str, op.weight_shapes(sizes)))}')


print(facts('convolution', conv))
# --8<-- [end:sizes]

# --8<-- [start:steps]
steps = {
    'convolution': conv,
    # 1. Two windows, two weights: a column, then a row, through C_out/s channels in between.
    'a column and a row': sn.Operator.parse(
        'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1, j:k_1, d:C_out/s] '
        'in[n, c, unfold(h, i), unfold(w, j)] * w1[o, i, d] * w2[j, d, c]'),
    # 2. The channels c are cut into g groups of C_in/g, and every group has a narrow middle of its own.
    '... in groups': sn.Operator.parse(
        'out[n:N, o:C_out, h:H, w:H] = sum[r:g, c:C_in/g, i:k_1, j:k_1, d:C_out/g/s] '
        'in[n, r*(C_in/g) + c, unfold(h, i), unfold(w, j)] * w1[o, r, i, d] * w2[j, d, r*(C_in/g) + c]'),
    # 3. The rows that the column reads are rolled by one.
    '... with the rows rolled': sn.Operator.parse(
        'out[n:N, o:C_out, h:H, w:H] = sum[r:g, c:C_in/g, i:k_1, j:k_1, d:C_out/g/s] '
        'in[n, r*(C_in/g) + c, shift(unfold(h, i), 1), unfold(w, j)] * w1[o, r, i, d] * w2[j, d, r*(C_in/g) + c]'),
}
for name, op in steps.items():
    print(facts(name, op))
# --8<-- [end:steps]

# --8<-- [start:published]
last = steps['... with the rows rolled']
print('the published operator 07754:', last == sn.classics.operator_2())
print(to_text_graph(last))
# --8<-- [end:published]

# --8<-- [start:values]
rng = np.random.default_rng(0)
small = {'N': 1, 'C_in': 4, 'C_out': 4, 'H': 6, 'k_1': 3, 'g': 2, 's': 2}
x = np.zeros(last.input_shape(small))
x[0, 0, 2, 3] = 1                             # one bright pixel, in channel 0
weights = [rng.standard_normal(shape) for shape in last.weight_shapes(small)]
seen = last.reference(x, weights, small)[0].any(axis=0)
print('\n'.join(' '.join('#' if cell else '.' for cell in row) for row in seen))
# --8<-- [end:values]

# --8<-- [start:plan]
layer = sn.SynthesizedLayer(last, sizes)
print(layer.plan)
# --8<-- [end:plan]

# --8<-- [start:pictures]
folder = Path('pictures')
folder.mkdir(exist_ok=True)
for number, op in enumerate(steps.values()):
    draw(op, folder / f'step_{number}.svg', sizes)     # with sizes: the receptive field, too
print(len(list(folder.iterdir())), 'pictures')
# --8<-- [end:pictures]
