"""A retrofitted model as ONNX, as OpenVINO and in int8, each checked against torch and timed against the original."""
import time
from pathlib import Path

import numpy as np
import onnxruntime
import timm
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from timm.utils import reparameterize_model
from torch import nn
from torch.utils.data import DataLoader

import syno_nni as sn
from syno_nni.data import DataConfig, load_data
from syno_nni.measure.latency import measure_pair
from syno_nni.measure.onnx import export_onnx

# --8<-- [start:models]
torch.manual_seed(0)
torch.set_num_threads(1)
splits = load_data(DataConfig(name='digits', image_size=32, channels=1))
original = timm.create_model('test_resnet', in_chans=1, num_classes=10)
retrofit = sn.retrofit(original, sn.classics.grouped_conv2d(groups=4), (1, 1, 32, 32), kinds=['conv3x3'])


def train(model: nn.Module) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(2):
        for x, y in DataLoader(splits.train, batch_size=32, shuffle=True, drop_last=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return reparameterize_model(model.eval())          # the deploy form


models = {'original': train(original), 'retrofit': train(retrofit)}
# --8<-- [end:models]

# --8<-- [start:onnx]
example = torch.randn(1, 1, 32, 32)
for name, model in models.items():
    export_onnx(model, example, Path(f'{name}.onnx'), free_batch=True)
# --8<-- [end:onnx]


# --8<-- [start:int8]
class Images(CalibrationDataReader):
    """Images of the training split, one at a time."""

    def __init__(self, input_name: str) -> None:
        self.left = ({input_name: splits.train[n][0][None].numpy()} for n in range(100))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


def session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


for name in models:
    quant_pre_process(f'{name}.onnx', 'ready.onnx')
    quantize_static('ready.onnx', f'{name}.int8.onnx', Images(session('ready.onnx').get_inputs()[0].name),
                    per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
# --8<-- [end:int8]

# --8<-- [start:compare]
images, labels = next(iter(DataLoader(splits.test, batch_size=len(splits.test))))
rows = {}
for path in ('original.onnx', 'retrofit.onnx', 'original.int8.onnx', 'retrofit.int8.onnx'):
    rows[path] = (run := session(path)), run.get_inputs()[0].name, []
for _ in range(100):                                   # in turns, so that a busy machine slows all of them
    for run, key, times in rows.values():
        start = time.perf_counter()
        run.run(None, {key: example.numpy()})
        times.append(1e3 * (time.perf_counter() - start))
for path, (run, key, times) in rows.items():
    accuracy = (run.run(None, {key: images.numpy()})[0].argmax(1) == labels.numpy()).mean()
    print(f'{path:20} {100 * accuracy:5.1f} %  {np.median(times):.2f} ms')
# --8<-- [end:compare]

# --8<-- [start:openvino]
pair = measure_pair(models['retrofit'], models['original'], example, threads=1, seconds=0.5, runtime='openvino')
print(f'OpenVINO: {pair.candidate.median_ms:.2f} ms, original {pair.baseline.median_ms:.2f} ms')
# --8<-- [end:openvino]
