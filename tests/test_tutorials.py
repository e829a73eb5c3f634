"""The tutorials run, and print what their pages show."""
from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / 'docs' / 'tutorials'
_spec = importlib.util.spec_from_file_location('run_tutorials', TUTORIALS / 'run.py')
assert _spec is not None and _spec.loader is not None
runner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runner)

NEEDS = {'deploy': ('onnx', 'onnxruntime', 'onnxscript', 'openvino')}
# Which operators are on the front, and so in the table, depends on how fast the machine is.
VARIES = {'search_image_folder': 'Run directory: runs/my-images'}


def lines(text: str) -> list[str]:
    """Every line without its numbers, and without the space that they take."""
    return [re.sub(r'\s+', ' ', re.sub(r'\d+(\.\d+)?', '#', line)).strip() for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize('name', runner.SCRIPTS)
def test_it_runs_and_prints_what_its_page_shows(name: str) -> None:
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    done = runner.run(name, timeout=280)
    assert done.returncode == 0, done.stderr
    shown = (TUTORIALS / 'output' / f'{name}.txt').read_text(encoding='utf-8')
    if name in VARIES:
        for text in (shown, done.stdout):
            assert lines(text)[0] == lines(shown)[0] and VARIES[name] in text
    else:
        assert lines(done.stdout) == lines(shown), f'run `python docs/tutorials/run.py {name}`'


def test_pages_show_every_part_of_every_script() -> None:
    pages = '\n'.join(path.read_text(encoding='utf-8') for path in TUTORIALS.glob('*.md'))
    for name in runner.SCRIPTS:
        script = (TUTORIALS / f'{name}.py').read_text(encoding='utf-8')
        parts = re.findall(r'\[start:(\w+)\]', script)
        assert parts, f'{name}: no part is marked'
        for part in parts:
            assert f'{name}.py:{part}"' in pages, f'no page shows {part} of {name}'
        shown = re.findall(rf'output/{name}\.txt(?::(\d+):(\d+))?"', pages)
        assert shown, f'no page shows what {name} prints'
        if shown != [('', '')]:
            lines_shown = [n for first, last in shown for n in range(int(first), int(last) + 1)]
            printed = len((TUTORIALS / 'output' / f'{name}.txt').read_text(encoding='utf-8').splitlines())
            assert lines_shown == sorted(set(lines_shown)), f'{name}: a line is shown twice'
            assert set(lines_shown) <= set(range(1, printed + 1)) and len(lines_shown) >= printed - 2, f'{name}: other lines'
