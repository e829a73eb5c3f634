from __future__ import annotations

import json

import pytest

from syno_nni.cli.main import main


def test_slots_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['slots', 'resnet10t', '--image-size', '64']) == 0
    out = capsys.readouterr().out
    assert 'layer1.0.conv1' in out and 'conv3x3' in out and 'slots hold' in out


def test_slots_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['slots', 'resnet10t', '--image-size', '64', '--kinds', 'conv3x3', '--exclude', 'layer4.*',
                 '--json']) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {r['name'].partition('.')[0] for r in rows if not r['excluded']} <= {'layer1', 'layer2', 'layer3', 'conv1'}


@pytest.mark.parametrize(('argv', 'message'), [
    (['resnet10'], 'did you mean'), (['resnet10t', '--kinds', 'conv4d'], 'unknown kind of slot'),
    (['resnet10t', '--include', 'layre1*'], 'no layer matches'),
])
def test_mistakes_are_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['slots', *argv]) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1 and message in err
