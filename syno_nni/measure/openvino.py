"""OpenVINO in float32 (it would choose bfloat16 by itself where the CPU has it), in a process of its own."""
from __future__ import annotations

import warnings
from pathlib import Path

from torch import Tensor, nn

from syno_nni.errors import MeasureError

from .runtime import OwnProcess


class OpenVino(OwnProcess):
    """Models travel as OpenVINO IR."""
    name = 'openvino'
    packages = ('openvino',)
    extra = 'openvino'
    suffix = '.xml'

    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        """Goes to the frontend itself: ``openvino.convert_model`` reports every use to its vendor, and asks for leave on a
        terminal, which stops a process in the background."""
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # tracing warns of every shape it takes for a constant, as it should here
                decoder = TorchScriptPythonDecoder(model, example_input=example)
            frontend = FrontEndManager().load_by_framework('pytorch')
            converted = frontend.convert(frontend.load(decoder))
            converted.reshape({converted.inputs[0]: list(example.shape)})
            openvino.save_model(converted, path, compress_to_fp16=False)
        except Exception as error:
            raise MeasureError(f'the model does not convert to OpenVINO: {type(error).__name__}: {error}') from error


RUNTIME = OpenVino()
