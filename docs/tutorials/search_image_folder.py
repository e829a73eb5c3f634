"""A folder of images, an experiment file, a search, and what it found in the model."""
from pathlib import Path

import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

import syno_nni as sn
from syno_nni.run.config import load_config
from syno_nni.run.report import text_report, write_report
from syno_nni.search.run import run_search

# --8<-- [start:folder]
digits = load_digits()
for number, (pixels, label) in enumerate(zip(digits.images, digits.target)):
    if label < 4 and number < 1000:           # four classes, some four hundred images
        folder = Path('images', 'train' if number % 5 else 'test', f'digit {label}')
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9375).astype('uint8')).save(folder / f'{number:04d}.png')
# --8<-- [end:folder]

# --8<-- [start:file]
Path('my.yml').write_text("""\
experimentName: my-images
model: {name: test_resnet}
data: {name: imagefolder, path: images, imageSize: 32, channels: 1, batchSize: 16}
slots: {kinds: [conv3x3]}
strategy: {name: random, seed: 1}
evaluation: {epochs: 2, learningRate: 5.0e-3, threads: 1}
latency: {threads: 1, seconds: 0.3}
engine: sequential
maxTrialNumber: 2
""")
# --8<-- [end:file]

# --8<-- [start:search]
run_dir = Path('runs', 'my-images')
state = run_search(load_config('my.yml'), run_dir)
write_report(state, run_dir)
print(text_report(state, run_dir))
# --8<-- [end:search]

# --8<-- [start:use]
winner = state.best
assert winner is not None
model = timm.create_model('test_resnet', in_chans=1, num_classes=4)
fast = sn.retrofit(model, winner.formula, (1, 1, 32, 32), kinds=['conv3x3'], on_misfit='keep')
print(tuple(fast(torch.randn(8, 1, 32, 32)).shape))
# --8<-- [end:use]
