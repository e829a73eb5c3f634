"""What a web page, another user or a rebound name can send to NNI's manager."""
from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

Headers = list[tuple[str, str]]


def foreign(port: int) -> dict[str, Headers]:
    """Headers that no request of the owner has."""
    here = ('Host', f'localhost:{port}')
    headers: dict[str, Headers] = {}
    for origin in ('http://evil.example', 'https://evil.example', 'null', 'file://', 'http://localhost:1', 'http://localhost',
                   f'https://localhost:{port}', f'http://127.0.0.1:{port}', f'http://localhost:{port}.evil.example',
                   f'http://localhost:{port}@evil.example', 'chrome-extension://abc', ''):
        headers[f'origin {origin}'] = [here, ('Origin', origin)]
    headers['two origins'] = [here, ('Origin', f'http://localhost:{port}'), ('Origin', 'http://evil.example')]
    for referer in ('http://evil.example/', f'http://localhost:{port}.evil.example/', 'about:blank'):
        headers[f'referer {referer}'] = [here, ('Referer', referer)]
    for site in ('cross-site', 'same-site'):
        headers[f'fetch {site}'] = [here, ('Sec-Fetch-Site', site)]
    for host in ('evil.example', f'evil.example:{port}', f'localhost.evil.example:{port}', f'127.0.0.1.evil.example:{port}',
                 f'localhost:{port}.evil.example', f'evil.example#localhost:{port}', f'user@localhost:{port}', '', ' ', '127.1',
                 f'0.0.0.0:{port}', f'localhost.:{port}', '2130706433', '[::ffff:7f00:1]', 'localhost:99999999',
                 'localhost localhost'):
        headers[f'host {host}'] = [('Host', host)]
    headers['two hosts'] = [here, ('Host', 'evil.example')]
    headers['no host'] = []
    return headers


def harmful(trial: str, canary: Path) -> list[tuple[str, str, Any]]:
    """Method, path below the prefix, and body of requests that NNI's manager would obey."""
    made = {'__symbol__': 'path:os.system', '__args__': [f'touch {canary}']}
    api = '/api/v1/nni'
    metric = {'parameter_id': 0, 'trial_job_id': trial, 'type': 'PERIODICAL', 'sequence': 0,
              'value': json.dumps({'default': made})}
    return [('GET', f'{api}/trial-jobs', None), ('GET', f'{api}/check-status', None), ('GET', '/', None),
            ('GET', '/oview', None), ('GET', '/logs/nnimanager.log', None), ('GET', '/netron/', None),
            ('HEAD', f'{api}/trial-jobs', None), ('OPTIONS', f'{api}/trial-jobs', None),
            ('POST', f'{api}/trial-jobs', {'operator': made, 'payload': made}),
            ('POST', f'{api}/experiment', {'trialCommand': f'touch {canary}'}),
            ('POST', f'{api}/experiment/import-data', [{'parameter': made, 'value': made}]),
            ('PUT', f'{api}/experiment?update_type=MAX_TRIAL_NUM', {'params': {'maxTrialNumber': 0}}),
            ('PUT', f'{api}/experiment?update_type=SEARCH_SPACE', {'params': {'searchSpace': made}}),
            ('PUT', f'/env/local-env/{trial}', {'type': 'metric', 'metric': json.dumps(metric)}),
            ('PUT', f'/env/local-env/{trial}', {'type': 'metric', 'metric': json.dumps({'type': 'FINAL', 'value': '1'})}),
            ('POST', f'{api}/tensorboard', {'trials': trial}), ('DELETE', f'{api}/trial-jobs/{trial}', None),
            ('DELETE', f'{api}/experiment', None)]


def send(port: int, method: str, path: str, headers: Headers, body: Any = None, content_type: str = 'application/json',
         ) -> tuple[int, str]:
    """Status and text of the answer; 0 when the connection was closed without one."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        data = b'' if body is None else json.dumps(body).encode()
        if body is not None:
            connection.putheader('Content-Type', content_type)
        connection.putheader('Content-Length', str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors='replace')
    except (http.client.HTTPException, ConnectionError):
        return 0, ''
    finally:
        connection.close()


def refused_requests(port: int, token: str, trial: str, canary: Path) -> Iterator[tuple[str, int, str]]:
    """Send them all; yields what was sent, the status and the text. The last ones know the token, and are foreign."""
    owner = [('Host', f'localhost:{port}')]
    for method, path, body in harmful(trial, canary):
        for prefix in ('', '/' + '0' * 32, f'/{token[:-1]}', f'/{token}0', f'/{token.upper()}x', f'//{token}',
                       f'/x/../{token}'):
            yield (f'{method} {prefix}{path}', *send(port, method, prefix + path, owner, body))
        for name, headers in foreign(port).items():
            yield (f'{method} {path} {name}', *send(port, method, f'/{token}{path}', headers, body))
        if body is not None:
            for form in ('text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', ''):
                yield (f'{method} {path} {form}', *send(port, method, f'/{token}{path}', owner, body, form))
    yield ('absolute address', *send(port, 'GET', f'http://localhost:{port}/api/v1/nni/trial-jobs', owner))


def websocket_opens(port: int, path: str, origin: str | None, host: str | None, *messages: Any) -> bool:
    """Whether the manager accepts a WebSocket; the messages are sent then."""
    with socket.create_connection(('127.0.0.1', port), timeout=20) as raw:
        try:
            with connect(f'ws://{host or f"localhost:{port}"}{path}', sock=raw, origin=origin, proxy=None,  # type: ignore[arg-type]
                         open_timeout=20, close_timeout=2) as ws:
                for message in messages:
                    ws.send(json.dumps(message))
                return True
        except (WebSocketException, OSError):
            return False


PAGE = """<!doctype html><title>evil</title><body><script>
const port = PORT, token = 'TOKEN', requests = REQUESTS;
const done = [];
async function attack() {
  for (const name of ['localhost', '127.0.0.1']) for (const prefix of ['', '/' + token]) {
    const at = `http://${name}:${port}${prefix}`;
    for (const [method, path, body] of requests) {
      for (const type of ['text/plain', 'application/json']) for (const mode of ['no-cors', 'cors']) {
        const options = { method, mode, credentials: 'include' };
        if (body !== null) { options.body = JSON.stringify(body); options.headers = { 'Content-Type': type }; }
        try { done.push((await fetch(at + path, options)).type); } catch (error) { done.push('error'); }
      }
      if (method === 'POST') {
        const frame = document.createElement('iframe'); frame.name = 'f' + done.length; document.body.append(frame);
        const form = document.createElement('form');
        form.action = at + path; form.method = 'post'; form.enctype = 'text/plain'; form.target = frame.name;
        const field = document.createElement('input');
        field.name = JSON.stringify(body).slice(0, -1) + ',"x":"'; field.value = '"}';
        form.append(field); document.body.append(form); form.submit();
      }
    }
    for (const path of ['/tuner', '/tuner/x']) await new Promise(resolve => {
      const ws = new WebSocket(`ws://${name}:${port}${prefix}${path}`);
      ws.onopen = () => { done.push('OPEN'); ws.send(JSON.stringify(MESSAGE)); resolve(); };
      ws.onerror = () => { done.push('refused'); resolve(); };
    });
  }
  document.title = 'attacked';
}
attack();
</script>"""


def page(port: int, token: str, trial: str, canary: Path) -> str:
    """A web page that does all of that."""
    made = {'__symbol__': 'path:os.system', '__args__': [f'touch {canary}']}
    message = {'type': 'TR', 'content': json.dumps({'parameter_id': 99, 'parameters': {'operator': made, 'payload': made}})}
    return (PAGE.replace('PORT', str(port)).replace('TOKEN', token).replace('MESSAGE', json.dumps(message))
            .replace('REQUESTS', json.dumps(harmful(trial, canary))))
