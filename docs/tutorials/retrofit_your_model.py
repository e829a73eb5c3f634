"""A trained network of your own: find its slots, fill them, keep its knowledge, check what that cost, save it."""
import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from timm.utils import reparameterize_model
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

import syno_nni as sn
from syno_nni.data import DataConfig, load_data
from syno_nni.measure.latency import measure_pair
from syno_nni.search_spaces import apply_slot_config, find_slots, format_slot_table, slot_config, slot_rows
from syno_nni.search_spaces.retrofit import distill, warm_start


# --8<-- [start:model]
def block(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())


def my_model() -> nn.Module:
    return nn.Sequential(block(1, 16, 1), block(16, 32, 2), block(32, 32, 1), block(32, 64, 2), block(64, 64, 1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def accuracy(model: nn.Module, data: DataLoader) -> float:
    model.eval()
    with torch.inference_mode():
        right = [(model(x).argmax(1) == y).float() for x, y in data]
    return 100 * torch.cat(right).mean().item()
# --8<-- [end:model]


# --8<-- [start:train]
torch.manual_seed(0)
torch.set_num_threads(1)
splits = load_data(DataConfig(name='digits', image_size=16, channels=1))      # 8x8 digits, enlarged; no download
train = DataLoader(splits.train, batch_size=64, shuffle=True, drop_last=True)
test = DataLoader(splits.test, batch_size=256)

model = my_model()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for _ in range(4):
    for x, y in train:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
print(f'original: {accuracy(model, test):.1f} % of {len(splits.test)} test images')
# --8<-- [end:train]

# --8<-- [start:slots]
slots, excluded = find_slots(model, (1, 1, 16, 16), coefficients={'g': 8})     # at most 8 groups
print(format_slot_table(slot_rows(slots, excluded)))
# --8<-- [end:slots]

# --8<-- [start:fill]
operator = sn.classics.operator_2()           # published as 07754: a column and a row, in groups, through a narrow middle
fast = sn.retrofit(model, operator, slots=slots)
fresh = accuracy(fast, test)
# --8<-- [end:fill]

# --8<-- [start:keep]
batches = [x for x, _ in train]
errors = warm_start(model, fast, batches[:4])  # 256 images, no labels
warm = accuracy(fast, test)
distill(model, fast, train, steps=60)
print(f'{"slot":8} error left')
for name, error in errors.items():
    print(f'{name:8} {error:.2f}')
print(f'retrofit: {fresh:.1f} % with fresh weights, {warm:.1f} % warm-started, {accuracy(fast, test):.1f} % distilled')
# --8<-- [end:keep]

# --8<-- [start:measure]
def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


deployed = reparameterize_model(fast.eval())   # a copy: what depends on weights alone is computed ahead
pair = measure_pair(deployed, model, torch.randn(1, 1, 16, 16), threads=1, seconds=1, max_rounds=500)
print(f'parameters: {parameters(model)} -> {parameters(fast)}')
print(f'eager, 1 thread, batch 32: {pair.speedup:.2f}x, quartiles {pair.speedup_low:.2f} to {pair.speedup_high:.2f}')
# --8<-- [end:measure]

# --8<-- [start:save]
Path('slots.json').write_text(json.dumps(slot_config(fast)))
save_file(fast.state_dict(), 'fast.safetensors')

again = apply_slot_config(my_model(), json.loads(Path('slots.json').read_text()))
again.load_state_dict(load_file('fast.safetensors'))
x = torch.randn(2, 1, 16, 16)
same = torch.equal(copy.deepcopy(fast).eval()(x), again.eval()(x))
print('saved and loaded:', 'equal' if same else 'different')
# --8<-- [end:save]
