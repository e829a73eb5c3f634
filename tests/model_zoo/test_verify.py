from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from syno_nni import model_zoo
from syno_nni.cli.main import main
from syno_nni.errors import ZooError
from syno_nni.model_zoo import retrofits
from syno_nni.model_zoo.card import folder_card, operator_card, retrofit_card
from syno_nni.model_zoo.gains import gains
from syno_nni.model_zoo.retrofits import parse_retrofit
from syno_nni.model_zoo.verify import ELSEWHERE, ERROR, FAILS, HOLDS, UNCLEAR, judge, verify

SMALL = {'format': 1, 'name': 'resnet18_syno_07754', 'base': 'resnet18', 'input_size': [3, 64, 64],
         'fill': {'conv3x3': 'syno_resnet_07754'}}


@pytest.mark.parametrize(('measured', 'verdict'), [
    ({'speedup': 2.1, 'speedup_high': 2.2, 'noisy': False}, HOLDS),
    ({'speedup': 1.9, 'speedup_high': 2.0, 'noisy': False}, HOLDS),
    ({'speedup': 1.2, 'speedup_high': 1.9, 'noisy': False}, FAILS),
    ({'speedup': 1.2, 'speedup_high': 1.9, 'noisy': True}, UNCLEAR),
    ({'speedup': 1.2, 'speedup_high': 1.3, 'noisy': True}, FAILS)])
def test_verdicts(measured: dict, verdict: str) -> None:
    assert judge({'speedup': 2.0, 'runtime': 'eager'}, measured)[0] == verdict


@pytest.mark.parametrize(('claim', 'measured', 'verdict'), [
    ({'cpu': 'other'}, {'speedup': 1.2}, ELSEWHERE), ({'cpu': 'other'}, {'speedup': 2.1}, HOLDS),
    ({'cpu': 'here'}, {'speedup': 1.2}, FAILS), ({'cpu': 'here', 'threads': 1}, {'speedup': 1.2, 'threads': 4}, ELSEWHERE),
    ({'cpu': 'here', 'threads': 4}, {'speedup': 1.2, 'threads': 4}, FAILS),
    ({'cpu': 'other'}, {'speedup': 1.2, 'noisy': True, 'speedup_high': 3.0}, ELSEWHERE)])
def test_a_claim_for_another_machine_is_not_refuted_here(claim: dict, measured: dict, verdict: str) -> None:
    numbers = {'cpu': 'here', 'noisy': False, 'speedup_high': measured['speedup'], **measured}
    assert judge({'speedup': 2.0, 'runtime': 'eager', **claim}, numbers)[0] == verdict


def test_one_definition_of_what_a_model_gains(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [('fast', 'net', {'runtime': 'onnx', 'speedup': 3.0, 'baseline_latency_ms': 30.0}),
            ('fast', 'net', {'runtime': 'eager', 'speedup': 4.0, 'baseline_latency_ms': 60.0}),
            ('slow', 'net', {'runtime': 'onnx', 'speedup': 1.0, 'baseline_latency_ms': 20.0}),
            ('slow', 'net', {'runtime': 'onnx', 'speedup': 9.0, 'baseline_latency_ms': 90.0, 'threads': 2}),
            ('none', 'net', {'dataset': 'x', 'accuracy': 1.0})]
    found = gains(rows)
    # 25 ms are the original's in its best runtime, 60 / 4 those of the retrofit in its own; with 2 threads nothing compares.
    assert found['fast'].speedup == pytest.approx(25 / (25 / 3)) and found['fast'].runtime == 'onnx'
    assert found['slow'].speedup == pytest.approx(9) and 'none' not in found
    # The README's table and the list say the same.
    assert main(['zoo', 'list']) == 0
    listed = dict(re.findall(r'^(\w+) +measured: ([\d.]+)x', capsys.readouterr().out, re.MULTILINE))
    readme = (Path(__file__).parents[2] / 'README.md').read_text(encoding='utf-8')
    shown = re.findall(r'^\| \w+ \| `(\w+)` \| ([\d.]+)x', readme, re.MULTILINE)
    assert shown and {name: listed[name] for name, _ in shown} == dict(shown)


def test_a_claim_must_be_a_number() -> None:
    with pytest.raises(ZooError, match='claims.0.speedup: should be'):
        parse_retrofit(json.dumps(SMALL | {'claims': [{'speedup': 'fast', 'runtime': 'eager'}]}), 'x')
    with pytest.raises(ZooError, match='runtime'):
        parse_retrofit(json.dumps(SMALL | {'claims': [{'speedup': 2.0}]}), 'x')


def test_verify_measures() -> None:
    claims = [{'runtime': 'eager', 'speedup': 1000.0, 'threads': 1}, {'runtime': 'eager', 'speedup': 1e-3, 'threads': 1},
              {'runtime': 'tvm', 'speedup': 2.0}]
    verdicts = verify(parse_retrofit(json.dumps(SMALL | {'claims': claims}), 'x'), seconds=0.05)
    assert [v.verdict for v in verdicts] == [FAILS, HOLDS, ERROR]
    assert verdicts[0].measured['input'] == [1, 3, 64, 64] and 'unknown runtime' in verdicts[2].reason


def test_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    entry = parse_retrofit(json.dumps(SMALL | {'claims': [{'runtime': 'eager', 'speedup': 1000.0, 'threads': 1}]}), 'x')
    monkeypatch.setattr(retrofits, '_read', lambda name: entry)
    assert main(['zoo', 'verify', entry.name, '--seconds', '0.05']) == 3
    assert FAILS in capsys.readouterr().out
    assert main(['zoo', 'verify', 'syno_resnet_07754']) == 1
    assert 'is an operator' in capsys.readouterr().err


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['zoo', 'list']) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in [*model_zoo.names(), *model_zoo.retrofit_names()])
    assert main(['zoo', 'show', 'resnet18_syno_07889']) == 0
    card = capsys.readouterr().out
    assert 'not measured by this project' in card and '77.' in card.replace('78.', '77.') and 'Zhuo et al.' in card
    assert main(['zoo', '--json']) == 0
    assert {r['name'] for r in json.loads(capsys.readouterr().out)} == {*model_zoo.names(), *model_zoo.retrofit_names()}
    for argv in (['show'], ['list', 'x'], ['show', 'resnet18_syno_0788'], ['verify', 'nothing']):
        assert main(['zoo', *argv]) == 1
        assert capsys.readouterr().err.count('\n') == 1


def test_cards_of_everything() -> None:
    for name in model_zoo.names():
        entry = model_zoo.load(name)
        assert str(entry.operator) in operator_card(entry) and entry.citation in operator_card(entry)
    for name in model_zoo.retrofit_names():
        assert f"create_model('{name}'" in retrofit_card(model_zoo.load_retrofit(name))


def test_a_folder_without_measurements_claims_none() -> None:
    slots = {'layer1.0.conv1': {'formula': str(model_zoo.load('syno_resnet_07754').operator), 'stride': [],
                                'sizes': {'C_in': 64, 'C_out': 64, 'H': 8, 'g': 32, 's': 2, 'k_1': 3}}}
    card = folder_card('x', 'resnet18', {'slots': slots}, {})
    assert 'Not measured' in card and '64 → 64' in card and 'speedup' not in card


@pytest.mark.parametrize(('change', 'message'), [
    ({'fill': {}}, 'fill: '), ({'fill': {'*': 'syno_resnet_1'}}, 'did you mean'), ({'weights': '../x'}, 'weights: '),
    ({'input_size': [3, 0, 1]}, 'input_size.1: '), ({'claims': {}}, 'claims: '), ({'base': 3}, 'base: should be text'),
    ({'format': 2}, 'newer'), ({'fill': {'*': 'out['}}, 'cannot read formula'), ({'kinds': 'x'}, 'kinds: '),
    ({'base_args': []}, 'base_args: should be a mapping'), ({'base': 'hf-hub:x/y'}, 'base: '), ({'base': '../x'}, 'base: '),
    ({'base': 'resnet18\n'}, 'base: '),
    ({'claims': [{'accuracy': 'x'}]}, r'claims.0.accuracy'), ({'claims': [{'input': 3}]}, 'claims.0.input: '),
    ({'claims': [{'runtime': 'eager', 'speedup': 2, 'threads': '1'}]}, 'claims.0.threads: '), ({'mean': float('1e300')},
                                                                                               'mean: ')])
def test_malformed_descriptions(change: dict, message: str) -> None:
    with pytest.raises(ZooError, match=message):
        parse_retrofit(json.dumps(SMALL | change), 'x.json')
