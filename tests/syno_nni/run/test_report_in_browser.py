"""The report as a reader meets it: in a browser, without network, light and dark, on a desk and on a phone.

Screenshots of the whole page stay in the folder that the environment variable SYNO_SCREENSHOTS names, if it is set.
"""
from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from syno_nni.run.config import load_config
from syno_nni.run.directory import open_run
from syno_nni.run.journal import read_journal
from syno_nni.run.report import ModelFacts, PlanFacts, SlotFacts, html_report
from syno_nni.run.state import RunState

from ...testing.browser import CHROMIUM, Page, open_browser
from ...testing.run_factory import fail, submit, succeed

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='Chromium is not installed (apt-get install chromium)')
ROOT = Path(__file__).parents[3]
EVIL = '<img src="http://127.0.0.1:9/x" onerror="document.title = \'taken\'"><script>document.title = "taken"</script>'


@pytest.fixture(scope='module')
def state() -> RunState:
    return read_journal(ROOT / 'benchmarks/results/fashion_mnist/journal.jsonl')


@pytest.fixture(scope='module')
def report(state: RunState, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {'N': 1, 'C_in': 64, 'C_out': 64, 'H': 16, 'k_1': 3, 's': 2, 'g': 32}
    slots = tuple(SlotFacts(f'layer1.{n}.conv{m}', 'operator', 'conv3x3', 'Conv2d 3x3', sizes, 9437184, 36864)
                  for n in (0, 1) for m in (1, 2))
    plans = {c.formula: PlanFacts(sizes, ('%2 = conv(%0, %1, (1, 1), 1)  # [1, 64, 16, 16]',), 4718592) for c in state.front}
    path = tmp_path_factory.mktemp('report') / 'report.html'
    text = html_report(state, run_dir=Path('runs/fashion mnist'), facts=ModelFacts(slots, None, plans))
    path.write_text(text, encoding='utf-8')
    return path


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with open_browser(tmp_path / 'browser') as page:
        for domain in ('Log', 'Network', 'Runtime'):
            page.call(f'{domain}.enable')
        yield page


def visit(page: Page, report: Path, width: int, height: int, dark: bool = False) -> None:
    page.emulate(width, height, dark=dark)
    page.go(report.as_uri())
    page.wait(lambda: page.js('document.readyState === "complete"'))


def complaints(page: Page, report: Path) -> list[str]:
    """Errors on the console, and what was fetched from elsewhere than the file itself."""
    page.js('1')  # lets the events before it arrive
    said = [str(e['params']) for e in page.events if e['method'] in ('Log.entryAdded', 'Runtime.consoleAPICalled',
                                                                    'Runtime.exceptionThrown')]
    asked = [e['params']['request']['url'] for e in page.events if e['method'] == 'Network.requestWillBeSent']
    return said + [url for url in asked if url != report.as_uri() and not url.startswith(('data:', 'blob:'))]


def background(page: Page) -> int:
    """How bright the page is, from 0 to 765."""
    return sum(page.js('getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)'))


def keep(page: Page, name: str) -> None:
    if folder := os.environ.get('SYNO_SCREENSHOTS'):
        page._shots = Path(folder)
        page.shot(name, whole=True)


@pytest.mark.parametrize(('name', 'width', 'height', 'dark'), [
    ('light', 1280, 900, False), ('dark', 1280, 900, True), ('phone', 390, 844, False), ('phone-dark', 390, 844, True)])
def test_the_page_is_read(name: str, width: int, height: int, dark: bool, page: Page, report: Path, state: RunState) -> None:
    visit(page, report, width, height, dark)
    text = page.wait_for('makes resnet18 1.18x as fast (1.15x to 1.20x)', 'loses 1.5 points of test accuracy', 'AMD EPYC',
                         'Accuracy against latency', 'Best so far', 'layer1.0.conv1', 'Where the time went', 'overhead',
                         'rejected by latency', 'runs/fashion mnist', 'strategy 0, data 0, evaluation 0', 'torch 2.15.0')
    assert state.best.id in text and 'undefined' not in text and 'NaN' not in text
    page.wait(lambda: page.js('[...document.querySelectorAll(".chart")].every(c => c.querySelector(".main-svg"))'))
    assert (background(page) < 200) == dark
    assert page.js('document.documentElement.scrollWidth') <= width, 'the page is wider than the window'
    keep(page, name)
    assert complaints(page, report) == []


def test_points_open_sections_and_rows(page: Page, report: Path, state: RunState) -> None:
    visit(page, report, 1280, 900)
    other = next(c for c in state.front if c is not state.best)
    assert not page.js(f'document.getElementById("op-{other.id}").open')
    plain = next(c for c in state.succeeded if c is not state.best and c not in state.front)
    for trial, kind in ((other, 'op'), (plain, 'row'), (state.failed[-1], 'row')):
        page.js('document.getElementById("trade-off").emit("plotly_click", '
                f'{{points: [{{customdata: "{trial.id}"}}]}})')
        page.wait(lambda t=trial, k=kind: page.js(
            f'(() => {{ const b = document.getElementById("{k}-{t.id}").getBoundingClientRect();'
            ' return b.height > 0 && b.top < innerHeight && b.bottom > 0 })()'))
    assert page.js(f'document.getElementById("op-{other.id}").open')
    hover = page.js('document.getElementById("trade-off").data.map(t => t.text.join(" ")).join(" ")')
    assert 'sum[' in hover and 'unfold(h, i)' in hover
    assert complaints(page, report) == []


def test_the_command_is_copied_and_tables_are_sorted(page: Page, report: Path, state: RunState) -> None:
    visit(page, report, 1280, 900)
    page.js('Object.defineProperty(navigator, "clipboard", {value: {writeText: async text => { window.copied = text; }}})')
    page.click('.verdict .copy')
    assert page.js('window.copied') == f"syno-nni retrofit --from-run 'runs/fashion mnist' --candidate {state.best.id}"
    page.wait_for('Copied')
    head = 'document.querySelectorAll(".sortable")[0].querySelectorAll("th")[3]'
    cells = '[...document.querySelectorAll(".sortable")[0].tBodies[0].rows].map(r => parseFloat(r.cells[3].innerText))'
    for descending in (True, False):
        page.js(f'{head}.click()')
        values = page.js(cells)
        assert len(values) == 28 and values == sorted(values, reverse=descending)
    assert complaints(page, report) == []


def test_what_trials_say_runs_nothing(page: Page, tmp_path: Path) -> None:
    with open_run(load_config().model_copy(update={'experiment_name': EVIL}), tmp_path / 'run') as journal:
        submit(journal, 0, 'baseline', 'keep')
        succeed(journal, 0, 'baseline', 0.97, 1.0)
        submit(journal, 1, EVIL, EVIL)
        succeed(journal, 1, EVIL, 0.9, 2.0)
        submit(journal, 2, 'b')
        fail(journal, 2, 'b', 'exception', EVIL)
    path = tmp_path / 'report.html'
    path.write_text(html_report(journal.state, run_dir=tmp_path / 'run', facts=ModelFacts(note=EVIL)), encoding='utf-8')
    visit(page, path, 1280, 900)
    page.wait_for('onerror', 'Rejected and failed')
    page.wait(lambda: page.js('document.querySelector("#trade-off .main-svg") !== null'))
    # Hovering writes the text of a point.
    page.js('Plotly.Fx.hover("trade-off", [{curveNumber: 0, pointNumber: 0}])')
    assert page.js('document.title') != 'taken'
    assert page.js('document.querySelectorAll("img[onerror], script").length') == 3
    assert complaints(page, path) == []
