from __future__ import annotations

from pathlib import Path

import pytest

from syno_nni.errors import ConfigError
from syno_nni.user_code import call_function, find_module, import_function


def test_a_function_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / 'mine_here.py').write_text('def build(width=3):\n    return width\n')
    function = import_function('mine_here:build', tmp_path, 'model.factory')
    assert call_function(function, {'width': 5}, 'model.factory') == 5


def test_installed_code() -> None:
    assert import_function('os.path:join', None, 'model.factory')('a', 'b') == 'a/b'


@pytest.mark.parametrize(('source', 'name', 'message'), [
    ('', 'no_such_module_here:f', 'there is no module no_such_module_here in '),
    ('def build(): pass', 'the_code:built', "the_code has no built; did you mean 'build'"),
    ('value = 3', 'the_code:value', 'should be a function, got int'),
    ('raise RuntimeError("at import")', 'the_code:f', r'cannot be imported: RuntimeError: at import \(the_code.*py, line 1\)'),
    ('def f(:', 'the_code:f', 'cannot be imported: SyntaxError'),
    ('', 'the_code', "should name a function as 'module:function'"),
    ('', 'the code:f', "should name a function as 'module:function'"),
    ('', '../x:f', "should name a function as 'module:function'"),
])
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, source: str, name: str, message: str,
                                         request: pytest.FixtureRequest) -> None:
    unique = f'the_code_{abs(hash(request.node.name))}'
    (tmp_path / f'{unique}.py').write_text(source)
    pattern = message if 'the_code.*' in message else message.replace('the_code', unique)
    with pytest.raises(ConfigError, match=pattern) as bad:
        import_function(name.replace('the_code', unique), tmp_path, 'model.factory')
    assert '\n' not in str(bad.value) and str(bad.value).startswith('model.factory: ')


def test_looking_for_a_module_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / 'do_not_run.py').write_text('raise SystemExit("it was run")')
    find_module('do_not_run:f', tmp_path, 'model.factory')
    find_module('os.path:join', None, 'model.factory')
    with pytest.raises(ConfigError, match='there is no module not_there_at_all'):
        find_module('not_there_at_all:f', tmp_path, 'model.factory')


def test_a_function_that_fails_names_its_line(tmp_path: Path) -> None:
    (tmp_path / 'fails_here.py').write_text('def f():\n    x = 1\n    return x / 0\n')
    with pytest.raises(ConfigError, match=r'data.factory: ZeroDivisionError: division by zero \(fails_here.py, line 3\)'):
        call_function(import_function('fails_here:f', tmp_path, 'data.factory'), {}, 'data.factory')
