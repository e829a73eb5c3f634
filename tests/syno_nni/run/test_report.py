from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from syno_nni.errors import JournalError
from syno_nni.run.config import load_config
from syno_nni.run.directory import load_run, open_run
from syno_nni.run.journal import read_journal
from syno_nni.run.plots import convergence_png, pareto_png
from syno_nni.run.report import (
    REPORT_FILES,
    ModelFacts,
    PlanFacts,
    SlotFacts,
    html_report,
    report_data,
    result_table,
    text_report,
    write_report,
)
from syno_nni.run.report.figures import random_part
from syno_nni.run.report.verdict import verdict
from syno_nni.run.state import RunState

from ...testing.run_factory import FORMULA, fail, make_run, submit, succeed, write

ROOT = Path(__file__).parents[3]
SIZES = {'N': 1, 'C_in': 8, 'C_out': 8, 'H': 8, 'k_1': 3}


@pytest.fixture
def state(tmp_path: Path) -> RunState:
    make_run(tmp_path / 'run')
    return load_run(tmp_path / 'run')


def test_table_lists_the_original_and_the_front_with_units(state: RunState) -> None:
    lines = result_table(state).splitlines()
    assert lines[0].split() == ['candidate', 'val.', 'accuracy', 'latency', 'ms', 'speedup', 'MACs', 'params']
    assert lines[1].split() == ['original', '97.00', '%', '4.00', '1.00x', '80M', '12.3k']
    shown = [*state.front, *([] if state.best in state.front else [state.best])]
    assert [line.split()[0] for line in lines[3::2]] == [c.id for c in shown]
    assert all(line == f'    {FORMULA}' for line in lines[4::2])


def test_text_names_winner_failures_conditions_and_the_way_on(state: RunState) -> None:
    text = text_report(state, Path('my runs/a'))
    assert f'* best objective: {state.best.id}, test accuracy 90.00 %; original model 90.00 %' in text
    assert '5 operators evaluated, 1 failed (timeout); budget used up' in text
    assert 'Latency: eager, 1 thread, batch 1, on ' in text
    assert f"syno-nni resume 'my runs/a' --max-trials {2 * state.config['maxTrialNumber']}" in text


def test_noisy_measurements_say_so(tmp_path: Path) -> None:
    with open_run(load_config(), tmp_path / 'run') as journal:
        submit(journal, 1, 'a')
        succeed(journal, 1, 'a', 0.9, 2.0, noisy=1)
    text = text_report(journal.state, tmp_path / 'run')
    assert '2.00 ~' in text and '~ noisy measurement' in text and 'no end recorded' in text


def test_runs_without_results_are_reported_too(tmp_path: Path) -> None:
    with open_run(load_config(), tmp_path / 'run') as journal:
        assert 'No operator was evaluated' in text_report(journal.state, tmp_path)
        submit(journal, 1, 'a')
        assert '1 in flight' in text_report(journal.state, tmp_path)
        fail(journal, 1, 'a')
    assert [p.name for p in write_report(journal.state, tmp_path / 'run')] == list(REPORT_FILES)


class Page(HTMLParser):
    """Collects what matters of a page, and checks that tags match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0
        self.text = ''
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        if tag == 'img':
            self.images.append(given['src'])
        self.scripts += tag == 'script'
        self.ids += [given['id']] if 'id' in given else []
        self.links += [v for k, v in attrs if k in ('href', 'src') and not v.startswith(('data:', '#'))]
        if tag not in ('img', 'meta'):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass  # of drawings

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if 'script' not in self.open and 'style' not in self.open:
            self.text += data


def test_page_is_one_file_with_every_candidate(state: RunState) -> None:
    page = Page(html_report(state, run_dir=Path('my runs/a')))
    assert not page.links and page.scripts == 3
    assert all(i.startswith('data:image/png;base64,') for i in page.images)
    assert all(c.id in page.text for c in state.operators)
    assert len(page.ids) == len(set(page.ids))
    assert {f'op-{c.id}' for c in state.front} | {'trade-off', 'convergence'} <= set(page.ids)
    for words in ('too slow', 'maxTrialNumber', 'strategy 0', "--from-run 'my runs/a' --candidate " + state.best.id,
                  'for n in range(N):', 'one output reads 3 x 1 of 56 x 56 positions'):
        assert words in page.text, words


@pytest.mark.parametrize('evil', ['<script>alert(1)</script>', '</script><img src=x onerror=alert(1)>',
                                  '"><svg onload=alert(1)>', "{{ 7 * 7 }} {% raw %} ' & <!--",
                                  '</style></title></textarea>'])
def test_page_escapes_what_trials_say(evil: str, tmp_path: Path) -> None:
    """In messages, formulas, samples, ids, versions and names: only our scripts, and nothing that ends them early."""
    config = load_config().model_copy(update={'experiment_name': evil})
    with open_run(config, tmp_path / 'run') as journal:
        submit(journal, 1, 'a')
        fail(journal, 1, 'a', 'exception', evil)
        submit(journal, 2, evil, evil)
        succeed(journal, 2, evil, 0.9, 2.0)
        submit(journal, 3, 'c', evil)
        fail(journal, 3, 'c', 'died', evil)
    state = journal.state
    state.environment = {'cpu': evil, 'versions': {evil: evil}, 'platform': evil}
    facts = ModelFacts((SlotFacts(evil, 'operator', evil, evil, {'H': 8}, 10, 10),), None, {evil: PlanFacts({}, (evil,), 1)})
    for known in (None, facts, ModelFacts(note=evil)):
        text = html_report(state, b'', b'', run_dir=tmp_path / evil.replace('/', ''), facts=known)
        page = Page(text)
        assert page.scripts == 3 and evil in page.text
        assert '<img src=x' not in text and '<svg onload' not in text and 'Nothing to draw' in page.text


def test_page_shows_slots_and_plans_where_they_are_known(state: RunState) -> None:
    slots = tuple(SlotFacts(f'layer{n}.conv', 'operator', 'conv3x3', 'Conv2d 3x3', SIZES, 36864, 576) for n in (1, 2))
    plans = {FORMULA: PlanFacts(SIZES, ('%2 = conv(%0, %1)',), 9)}
    text = Page(html_report(state, facts=ModelFacts(slots, None, plans))).text
    assert 'layer2.conv' in text and '%2 = conv(%0, %1)' in text and '36.9k' in text and '12.3k' in text
    assert 'in the largest of its 2 slots, layer1.conv' in text
    text = Page(html_report(state, facts=ModelFacts(note='no such model'))).text
    assert 'no such model' in text and 'at usual sizes' in text


def test_several_choices_are_several_operators(tmp_path: Path) -> None:
    with open_run(load_config(), tmp_path / 'run') as journal:
        write(journal, {'event': 'submitted', 'number': 1, 'id': 'a', 'formula': 'two', 'sample': {
            'operator:x': FORMULA, 'operator:y': 'keep', 'operator:z': 'out[n:N, c:C_in] = in[n, shift(c, 1)]'}})
        succeed(journal, 1, 'a', 0.9, 2.0)
    slots = tuple(SlotFacts(name, f'operator:{name}', 'conv3x3', 'Conv2d', SIZES, 9, 9) for name in 'xyz')
    text = Page(html_report(journal.state, facts=ModelFacts(slots))).text
    assert 'in its slot, x' in text and 'in its slot, z' in text and 'kept' in text
    data = report_data(journal.state, None, ModelFacts(slots))
    assert data['winner']['mapping'] == {'x': FORMULA, 'y': 'keep', 'z': 'out[n:N, c:C_in] = in[n, shift(c, 1)]'}


def test_data_holds_the_whole_result(state: RunState, tmp_path: Path) -> None:
    data = json.loads(json.dumps(report_data(state, tmp_path / 'run'), allow_nan=False))
    original, winner = data['original'], data['winner']
    assert (original['accuracy'], original['test_accuracy'], original['latency_ms'], original['macs'], original['params']) == (
        0.97, 0.9, 4.0, 80000000, 12345)
    assert winner['id'] == state.best.id and winner['speedup'] == state.best.metrics['speedup'] and winner['mapping'] is None
    assert winner['latency_ms'] == pytest.approx(4 / winner['speedup'], abs=1e-4)
    assert winner['sample'] == {'operator': FORMULA} and winner['folder'] is None
    assert [c['id'] for c in data['front']] == [c.id for c in state.front]
    assert data['outcomes'] == {'succeeded': 5, 'timeout': 1} and data['ended'] == 'budget'
    assert data['seeds'] == {'strategy': 0, 'data': 0, 'evaluation': 0}
    folder = tmp_path / 'run' / 'model'
    folder.mkdir()
    for said, found in (('{"syno_nni": {"run": {"candidate": "other"}}}', None), ('{', None), ('[]', None),
                        (json.dumps({'syno_nni': {'run': {'candidate': winner['id']}}}), str(folder))):
        (folder / 'config.json').write_text(said)
        assert report_data(state, tmp_path / 'run')['winner']['folder'] == found


def test_data_of_a_run_without_results(tmp_path: Path) -> None:
    with open_run(load_config(), tmp_path / 'run') as journal:
        submit(journal, 1, 'a')
    data = report_data(journal.state)
    assert (data['original'], data['winner'], data['front']) == (None, None, [])
    assert data['outcomes'] == {'succeeded': 0, 'in flight': 1}


@pytest.mark.parametrize(('accuracy', 'speedup', 'more', 'headline', 'grade'), [
    (0.96, 2.0, {'speedup_low': 1.8, 'speedup_high': 2.1, 'noisy': 0},
     'makes resnet18 2.00x as fast (1.80x to 2.10x) on CPU and loses 1.0 point of validation accuracy (97.0 % before, 96.0 % '
     'after).',
     'better'),
    (0.98, 1.5, {'noisy': 1}, '1.50x as fast (a noisy measurement) on CPU and gains 1.0 point of', 'better'),
    (0.97, 1.0, {}, 'neither faster nor slower on CPU and keeps its validation accuracy', 'better'),
    (0.70, 0.8, {}, 'slower, 0.80x as fast on CPU and loses 27.0 points', 'keep'),
])
def test_verdict(accuracy: float, speedup: float, more: dict, headline: str, grade: str, tmp_path: Path) -> None:
    with open_run(load_config(), tmp_path / 'run') as journal:
        submit(journal, 0, 'baseline', 'keep')
        succeed(journal, 0, 'baseline', 0.97, 1.0)
        submit(journal, 1, 'a')
        succeed(journal, 1, 'a', accuracy, speedup, **more)
    journal.state.environment['cpu'] = 'CPU'
    journal.state.config['model'] = {'name': 'resnet18'}
    found = verdict(journal.state)
    assert headline in found.headline and found.grade == grade
    assert any('keep it' in reason for reason in found.reasons) == (grade == 'keep')
    assert any('may be no faster' in reason for reason in verdict(_low(journal.state)).reasons)


def _low(state: RunState) -> RunState:
    state.best.metrics.update(speedup_low=0.9, speedup_high=2.2)  # type: ignore[attr-defined]
    return state


def test_random_part_of_a_search(state: RunState) -> None:
    ids = [c.id for c in state.operators]
    state.config['strategy'] = {'name': 'mcts'}
    assert random_part(state) == set()
    state.config['strategy'] = {'name': 'random'}
    assert random_part(state) == set(ids)
    state.config['strategy'] = {'name': 'evolution', 'classArgs': {'warm_up': 2}}
    assert random_part(state) == set(ids[:2])
    state.operators[3].candidate.note['paths'] = {}  # type: ignore[index]
    assert random_part(state) == set(ids) - {ids[3]}


@pytest.mark.parametrize('journal', [Path(__file__).with_name('journal_format_1.jsonl'),
                                     ROOT / 'benchmarks/results/fashion_mnist/journal.jsonl'])
def test_stored_journals_are_reported(journal: Path) -> None:
    state = read_journal(journal)
    page = Page(html_report(state))
    assert state.best.id in page.text and f'op-{state.best.id}' in page.ids
    assert json.dumps(report_data(state), allow_nan=False)


def test_reports_are_written_whole_or_not_at_all(state: RunState, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / 'run'
    write_report(state, run_dir)
    before = {p.name: p.read_bytes() for p in run_dir.iterdir()}
    assert (run_dir / 'report.html').stat().st_mode & 0o777 == 0o644

    def refuse(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', refuse)
    with pytest.raises(JournalError, match='cannot write the report: No space left'):
        write_report(state, run_dir)
    assert {p.name: p.read_bytes() for p in run_dir.iterdir()} == before


def test_plots_are_png_made_from_the_state_alone(state: RunState) -> None:
    for plot in (pareto_png, convergence_png):
        png = plot(state)
        assert png.startswith(b'\x89PNG') and len(png) > 5000
        assert plot(state) == png
        assert plot(RunState()).startswith(b'\x89PNG')
        assert plot(RunState()) != png
