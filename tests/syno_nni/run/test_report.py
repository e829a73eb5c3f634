from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from syno_nni.errors import JournalError
from syno_nni.run.config import load_config
from syno_nni.run.directory import load_run, open_run
from syno_nni.run.plots import convergence_png, pareto_png
from syno_nni.run.report import REPORT_FILES, html_report, result_table, text_report, write_report
from syno_nni.run.state import RunState

from ...testing.run_factory import FORMULA, fail, make_run, submit, succeed


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
        self.text = ''
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        if tag == 'img':
            self.images.append(given['src'])
        self.links += [v for k, v in attrs if k in ('href', 'src') and not v.startswith('data:')]
        if tag not in ('img', 'meta'):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_one_file_with_both_plots_and_every_candidate(state: RunState) -> None:
    page = Page(html_report(state))
    assert len(page.images) == 2 and all(i.startswith('data:image/png;base64,') for i in page.images)
    assert not page.links
    assert all(c.id in page.text for c in state.operators)
    assert 'too slow' in page.text and 'maxTrialNumber' in page.text


def test_page_escapes_what_trials_say(tmp_path: Path) -> None:
    with open_run(load_config(), tmp_path / 'run') as journal:
        submit(journal, 1, 'a')
        fail(journal, 1, 'a', 'exception', '<script>alert(1)</script>')
    text = html_report(journal.state)
    assert '<script' not in text and '<script>alert(1)</script>' in Page(text).text


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
