from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file

from syno_nni.cli.main import main
from syno_nni.operator import Operator, classics
from syno_nni.search_spaces import filled_slots

from ...testing.run_factory import FORMULA, make_run

FAST = ['--image-size', '32', '--seconds', '0.05', '--threads', '1']


def load(folder: Path) -> torch.nn.Module:
    return timm.create_model(f'local-dir:{folder}', pretrained=True).eval()


def test_operator_to_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    original = timm.create_model('resnet10t', num_classes=4)
    save_file(original.state_dict(), tmp_path / 'original.safetensors')
    out = tmp_path / 'fast'
    assert main(['retrofit', 'resnet10t', '--operator', 'conv2d', '--num-classes', '4', '--checkpoint',
                 str(tmp_path / 'original.safetensors'), '--exclude', '*0.conv1', '--out', str(out), *FAST]) == 0
    shown = capsys.readouterr().out
    assert 'MACs' in shown and 'speedup' in shown and 'warm start, error of the slots 0.000' in shown
    assert {p.name for p in out.iterdir()} == {'README.md', 'config.json', 'model.safetensors'}
    # The same convolutions, fitted to the original's kernels: the same function.
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load(out)(x), original.eval()(x), atol=1e-3, rtol=1e-3)
    assert tuple(timm.data.resolve_data_config(model=load(out))['input_size']) == (3, 32, 32)
    card = (out / 'README.md').read_text()
    assert str(classics.conv2d()) in card and 'speedup' in card and '`layer2.0.conv2`' in card
    assert json.loads((out / 'config.json').read_text())['syno_nni']['latency'][0]['runtime'] == 'eager'


def test_onnx_beside_the_weights(tmp_path: Path) -> None:
    pytest.importorskip('onnxscript')
    onnxruntime = pytest.importorskip('onnxruntime')
    out = tmp_path / 'fast'
    assert main(['retrofit', 'resnet10t', '--operator', 'conv2d', '--num-classes', '4', '--onnx', '--out', str(out),
                 *FAST]) == 0
    x = torch.randn(2, 3, 32, 32)
    session = onnxruntime.InferenceSession(out / 'model.onnx')
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), load(out)(x).detach(), atol=1e-3, rtol=1e-3)


def test_operators_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'fast'
    assert main(['retrofit', 'mobilenetv3_small_050', '--operator', 'pointwise=grouped_linear', '--out', str(out),
                 '--image-size', '64', '--runtime', 'none', '--json']) == 0
    said = json.loads(capsys.readouterr().out)
    assert said['folder'] == str(out) and 'config.json' in said['files'] and said['change']['slots'] > 0
    assert {f.op.id for f in filled_slots(load(out)).values()} == {classics.grouped_linear().id}


def test_from_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / 'runs' / 'a').path.parent
    out = tmp_path / 'fast'
    assert main(['retrofit', '--from-run', str(run), '--out', str(out), '--runtime', 'none']) == 0
    model = load(out)
    assert model.num_classes == 10 and filled_slots(model)
    assert {f.op.id for f in filled_slots(model).values()} == {Operator.parse(FORMULA).id}
    assert 'Of the search `a`' in (out / 'README.md').read_text()
    assert main(['retrofit', '--from-run', str(run), '--candidate', 'zz']) == 1
    assert main(['retrofit', 'resnet18', '--from-run', str(run)]) == 1
    assert FORMULA.split(' ')[0] in json.dumps(json.loads((out / 'config.json').read_text()))
    capsys.readouterr()


def test_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether operators of this size are faster is the machine's business.
    monkeypatch.setattr('syno_nni.search.recipe.measure_pair',
                        lambda *models, **how: SimpleNamespace(baseline=SimpleNamespace(median_ms=2.0), speedup=1.5))
    out = tmp_path / 'fast'
    assert main(['retrofit', 'resnet10t', '--operator', 'grouped_conv2d', '--operator', 'low_rank', '--budget', 'loss=1000',
                 '--include', 'layer1.*,layer2.*', '--kinds', 'conv3x3', '--out', str(out), *FAST]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == ['group', 'slots', 'choice', 'ms', 'kept', 'ms', 'loss']
    assert filled_slots(load(out))


@pytest.mark.parametrize(('argv', 'message'), [
    ([], 'name a timm model'), (['resnet10t'], 'what goes into the slots'), (['resnet999', '--operator', 'conv2d'], 'no model'),
    (['resnet10t', '--operator', 'nothing'], 'no operator'), (['resnet10t', '--operator', 'layr4*=conv2d', *FAST], 'no slot'),
    (['resnet10t', '--operator', 'conv2d', '--runtime', 'tvm'], 'unknown runtime'),
    (['resnet10t', '--operator', 'conv2d', '--steps', '3'], 'add --data'),
    (['resnet10t', '--operator', 'conv2d', '--losses', 'x=1'], 'unknown loss'),
    (['resnet10t', '--operator', 'conv2d', '--checkpoint', 'none.pth', *FAST], 'none.pth: No such file'),
    (['resnet10t', '--budget', '8', *FAST], 'a budget is a latency'),
    (['--from-run', 'nowhere', '--budget', '8ms'], 'leave out'), (['--from-run', 'nowhere'], 'no run directory')])
def test_mistakes_are_one_line(argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['retrofit', *argv]) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1 and message in err
    assert not list(tmp_path.iterdir())
