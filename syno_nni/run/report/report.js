'use strict';
(() => {
  const figures = JSON.parse(document.getElementById('figures').textContent);
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const narrow = matchMedia('(max-width: 40rem)');
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
  const markers = {
    operator: () => ({color: colour('grey'), size: 8, opacity: 0.8}),
    random: () => ({color: colour('grey'), size: 8, symbol: 'circle-open', line: {width: 1.6}}),
    front: () => ({color: colour('blue'), size: 10, line: {color: colour('card'), width: 1}}),
    original: () => ({color: colour('orange'), size: 13, symbol: 'diamond'}),
    winner: () => ({color: colour('green'), size: 18, symbol: 'star', line: {color: colour('card'), width: 1}}),
    best: () => ({color: colour('green')}),
    lost: () => ({color: colour('grey'), size: 6, symbol: 'x-thin', line: {color: colour('grey'), width: 1.2}}),
  };

  const bars = trace => ({
    type: 'bar', orientation: 'h', x: trace.x, y: trace.y, text: trace.label, textposition: 'auto', cliponaxis: false,
    hoverinfo: 'y+text', marker: {color: trace.beside.map(beside => colour(beside ? 'soft' : 'blue'))},
    insidetextfont: {color: colour('card')}, outsidetextfont: {color: colour('ink')},
  });

  const points = trace => {
    const marker = markers[trace.role]();
    const error = bounds => bounds && {
      type: 'data', symmetric: false, array: bounds.plus, arrayminus: bounds.minus, color: marker.color, thickness: 1, width: 3,
    };
    return {
      type: 'scatter', mode: trace.mode, name: trace.name, x: trace.x, y: trace.y, text: trace.text, customdata: trace.customdata,
      hovertemplate: trace.hover ? undefined : '%{text}<extra></extra>', hoverinfo: trace.hover, marker,
      line: {color: marker.color, width: trace.role === 'best' ? 2.4 : 1.4, dash: trace.dash ? 'dash' : 'solid', ...trace.line},
      error_x: error(trace.error_x) || undefined, error_y: error(trace.error_y) || undefined,
    };
  };

  const layout = figure => {
    const axis = title => ({
      title: {text: title, standoff: 12}, gridcolor: colour('line'), linecolor: colour('grey'), zeroline: false, automargin: true,
    });
    return {
      font: {family: 'system-ui, sans-serif', size: narrow.matches ? 11 : 13, color: colour('ink')},
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', margin: {l: 10, r: 16, t: 8, b: 10},
      xaxis: axis(figure.x), yaxis: {...axis(figure.y), ...(figure.y ? {} : {autorange: 'reversed', ticksuffix: ' '})},
      showlegend: figure.legend, legend: {orientation: 'h', y: 1.02, yanchor: 'bottom', x: 0},
      hoverlabel: {align: 'left', bgcolor: colour('card'), bordercolor: colour('grey'), font: {color: colour('ink'), size: 12}},
      hovermode: 'closest', dragmode: false,
      shapes: figure.lines.map(line => ({
        type: 'line', line: {color: colour('orange'), width: 1, dash: 'dot'}, layer: 'below',
        ...(line.axis === 'x' ? {x0: line.at, x1: line.at, y0: 0, y1: 1, yref: 'paper'}
          : {y0: line.at, y1: line.at, x0: 0, x1: 1, xref: 'paper'}),
      })),
      annotations: figure.note ? [{
        text: figure.note, x: 1, xref: 'paper', xanchor: 'right', y: figure.lines[0].at, yanchor: 'bottom', showarrow: false,
        font: {color: colour('orange'), size: 12},
      }] : [],
    };
  };

  const open = id => {
    // A section of its own, or else a row of a table.
    const place = document.getElementById('op-' + id) || document.getElementById('row-' + id);
    if (!place) return;
    for (let around = place; around; around = around.parentElement) if (around.tagName === 'DETAILS') around.open = true;
    place.scrollIntoView({behavior: 'smooth', block: 'start'});
    place.classList.add('found');
    setTimeout(() => place.classList.remove('found'), 2500);
  };

  const draw = () => {
    for (const [id, figure] of Object.entries(figures)) {
      const place = document.getElementById(id);
      if (!place) continue;
      const traces = figure.traces.map(trace => trace.role === 'bars' ? bars(trace) : points(trace));
      Plotly.react(place, traces, layout(figure), {displayModeBar: false, responsive: true, scrollZoom: false});
      if (!place.dataset.ready) {
        place.dataset.ready = 'yes';
        place.on('plotly_click', event => open(event.points[0].customdata));
      }
    }
  };
  draw();
  dark.addEventListener('change', draw);
  narrow.addEventListener('change', draw);

  const show = () => {
    if (location.hash.startsWith('#op-')) open(decodeURIComponent(location.hash.slice(4)));
  };
  addEventListener('hashchange', show);
  show();

  const copied = async text => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = document.createElement('textarea');
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand('copy');
      area.remove();
      return done;
    }
  };
  for (const button of document.querySelectorAll('.copy')) {
    button.addEventListener('click', async () => {
      const before = button.textContent;
      button.textContent = await copied(button.dataset.copy) ? 'Copied' : 'Select and copy it by hand';
      setTimeout(() => { button.textContent = before; }, 2000);
    });
  }

  const units = {k: 1e3, M: 1e6, G: 1e9, T: 1e12};
  const value = cell => {
    const text = cell ? cell.innerText.trim() : '';
    const found = /^(-?[\d.]+)([kMGT]?)/.exec(text);
    return cell && cell.classList.contains('n') ? (found ? Number(found[1]) * (units[found[2]] || 1) : -Infinity) : text;
  };
  for (const table of document.querySelectorAll('.sortable')) {
    const heads = [...table.querySelectorAll('th')];
    heads.forEach((head, column) => head.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') !== 'descending';
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const rows = [...table.tBodies[0].rows];
      const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
      rows.sort((a, b) => order(value(a.cells[column]), value(b.cells[column])));
      table.tBodies[0].append(...rows);
    }));
  }
})();
