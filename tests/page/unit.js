// The page's pure parts, run inside of the page by page_test.py. Every test throws where it fails.
// arguments[0]: the address of the modules' folder; the last argument takes { name: failure or null }.

const [folder, done] = arguments;

const same = (got, wanted) => {
  const [a, b] = [JSON.stringify(got), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`got ${a}, wanted ${b}`);
};
const throws = (work, pattern) => {
  try {
    work();
  } catch (error) {
    if (pattern.test(error.message)) return;
    throw new Error(`threw ${error.message}`);
  }
  throw new Error('did not throw');
};

// A small generator: the same cuts in every run.
let state = 12345;
const random = (below) => {
  state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
  return Math.floor((state / 0x7fffffff) * below) % below;
};
const cuts = (text) => {
  const pieces = [];
  for (let at = 0; at < text.length; ) {
    const end = Math.min(text.length, at + 1 + random(7));
    pieces.push(text.slice(at, end));
    at = end;
  }
  return pieces;
};

async function collect() {
  const load = (name) => import(`${folder}${name}.js`);
  const { EventParser } = await load('sse');
  const tree = await load('tree');
  const { MarkdownView, renderMarkdown } = await load('markdown');
  const metrics = await load('metrics');
  const settings = await load('settings');
  const { pretty } = await load('message');

  const html = (text) => {
    const host = document.createElement('div');
    host.append(renderMarkdown(text));
    return host;
  };
  const streamed = (pieces, flushes = true) => {
    const host = document.createElement('div');
    const view = new MarkdownView(host);
    for (const piece of pieces) {
      view.push(piece);
      if (flushes) view.flush();
    }
    view.end();
    return host;
  };

  return {
    'events come whole however the text is cut': () => {
      const text = ': a comment\n\ndata: {"a":1}\n\nid: 7\r\nevent: x\r\ndata: two\r\ndata:  lines\r\n\r\ndata\n\ndata: [DONE]\n\ndata: unfinished';
      const wanted = ['{"a":1}', 'two\n lines', '', '[DONE]'];
      for (let round = 0; round < 200; ++round) {
        const parser = new EventParser();
        same(cuts(text).flatMap((piece) => parser.feed(piece)), wanted);
      }
      same([...text].flatMap((() => { const parser = new EventParser(); return (letter) => parser.feed(letter); })()), wanted);
      const old = new EventParser();
      same([...old.feed('data: a\r\rdata: b\r'), ...old.feed('\n\r'), ...old.feed('\n')], ['a', 'b']);
    },

    'an edit is a branch and the old one stays': () => {
      const one = tree.newConversation();
      const first = tree.add(one, '', { role: 'user', content: 'What is it?\nTell me' });
      const answer = tree.add(one, first.id, { role: 'assistant', content: 'This.' });
      same(one.title, 'What is it?');
      const second = tree.add(one, '', { role: 'user', content: 'And that?' });
      same(tree.path(one).map((node) => node.id), [second.id]);
      same(tree.siblings(one, second), { index: 1, ids: [first.id, second.id] });
      tree.choose(one, first.id);
      same(tree.path(one).map((node) => node.id), [first.id, answer.id]);
      const again = tree.add(one, first.id, { role: 'assistant', content: 'That.' });
      same(tree.path(one).map((node) => node.id), [first.id, again.id]);
      tree.choose(one, second.id);
      tree.choose(one, first.id);
      same(tree.path(one).at(-1).id, again.id); // where one was on the other branch
    },

    'messages of a request follow the shown path': () => {
      const one = tree.newConversation();
      const ask = tree.add(one, '', { role: 'user', content: 'Weather?' });
      const call = tree.add(one, ask.id, { role: 'assistant', reasoning: 'hm', calls: [{ id: 'c1', name: 'w', arguments: '' }, { id: 'c2', name: 'v', arguments: '{"a":1}' }] });
      same(tree.openCalls(one).map((open) => open.id), ['c1', 'c2']);
      const result = tree.add(one, call.id, { role: 'tool', callId: 'c1', name: 'w', content: 'rain' });
      same(tree.openCalls(one).map((open) => open.id), ['c2']);
      tree.add(one, result.id, { role: 'tool', callId: 'c2', name: 'v', content: '1' });
      same(tree.openCalls(one), []);
      same(tree.toMessages(tree.path(one), 'Be brief.'), [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'Weather?' },
        { role: 'assistant', content: '', reasoning_content: 'hm', tool_calls: [{ id: 'c1', type: 'function', function: { name: 'w', arguments: '{}' } }, { id: 'c2', type: 'function', function: { name: 'v', arguments: '{"a":1}' } }] },
        { role: 'tool', tool_call_id: 'c1', content: 'rain' },
        { role: 'tool', tool_call_id: 'c2', content: '1' },
      ]);
      same(tree.toMessages([], '  '), []);
      const cut = tree.add(one, ask.id, { role: 'assistant', calls: [{ id: 'c3', name: 'w', arguments: '{"ci' }] });
      same(tree.openCalls(one), []); // nobody can answer half a call
      same(tree.toMessages([cut]), [{ role: 'assistant', content: '' }]);
    },

    'an export comes back, and a broken one is refused by message': () => {
      const one = tree.newConversation({ temperature: '0' });
      const ask = tree.add(one, '', { role: 'user', content: 'A' });
      tree.add(one, ask.id, { role: 'assistant', content: 'B' });
      tree.add(one, ask.id, { role: 'assistant', content: 'C' });
      const back = tree.fromExport(JSON.parse(JSON.stringify(one)));
      same(tree.path(back).map((node) => node.content), ['A', 'C']);
      same(back.settings, { temperature: '0' });
      if (back.id === one.id) throw new Error('an import must not overwrite');
      throws(() => tree.fromExport([]), /no messages/);
      throws(() => tree.fromExport({ nodes: { x: { id: 'x', parent: 'y', role: 'user', content: '' } } }), /x hangs on/);
      throws(() => tree.fromExport({ nodes: { x: { id: 'x', parent: '', role: 'system', content: '' } } }), /message x/);
      throws(() => tree.fromExport({ nodes: { x: { id: 'x', parent: '', role: 'assistant', content: '', calls: [{ id: 1 }] } } }), /broken call/);
    },

    'markdown is the same however it streams': () => {
      const text = [
        '# Title', '', 'A *paragraph* with `code`,', 'two lines & <b>tags</b>.', '', '- one', '- two', '', '  still two', '- three', '', '1. first', '2. second', '',
        '| a | b |', '|---|--:|', '| 1 | 2 |', '', '```python', 'def f(x):', '\treturn "```"', '```', 'after', '', '> quoted', '> more', '', '~~~', 'plain ``` text', '~~~', '', 'Setext', '======', '', 'end **bold',
      ].join('\n');
      const wanted = streamed([text], false).innerHTML;
      for (let round = 0; round < 60; ++round) same(streamed(cuts(text)).innerHTML, wanted);
      same(streamed([...text]).innerHTML, wanted);
      const host = html(text);
      same(host.querySelectorAll('h1').length, 2);
      same(host.querySelectorAll('ul').length, 1);
      same(host.querySelectorAll('ul > li').length, 3);
      same(host.querySelectorAll('ol > li').length, 2);
      same(host.querySelector('td[align=right]').textContent, '2');
      same([...host.querySelectorAll('.code pre')].map((pre) => pre.textContent), ['def f(x):\n\treturn "```"\n', 'plain ``` text\n']);
      same(host.querySelectorAll('b').length, 0);
    },

    'an open fence shows what has come': () => {
      const host = document.createElement('div');
      const view = new MarkdownView(host);
      view.push('Look:\n```js\nlet a = 1;\nlet b');
      view.flush();
      same(host.querySelector('pre').textContent, 'let a = 1;\nlet b');
      view.push(' = 2;\n``');
      view.flush();
      same(host.querySelector('pre').textContent, 'let a = 1;\nlet b = 2;\n');
      view.push('`\nDone');
      view.end();
      same(host.querySelector('pre').textContent, 'let a = 1;\nlet b = 2;\n');
      same(host.querySelector('p:last-of-type').textContent, 'Done');
    },

    'links are safe and pictures are links': () => {
      const links = [...html('[a](https://x.example/?a=1&b=2) [b](javascript:alert(1)) [c](data:text/html,x) ![d](https://y.example/p.png) <https://z.example>').querySelectorAll('a')];
      same(links.map((link) => link.getAttribute('href')), ['https://x.example/?a=1&b=2', 'https://y.example/p.png', 'https://z.example']);
      for (const link of links) if (link.rel !== 'noopener noreferrer nofollow') throw new Error(link.outerHTML);
      same(html('![d](https://y.example/p.png)').querySelectorAll('img').length, 0);
      same(html('a &lt;b&gt; &amp;amp; &nope; `&lt;` &#65;').textContent, 'a <b> &amp; &nope; &lt; A');
    },

    'a scrape is parsed, and quantiles are those of Prometheus': () => {
      const text = '# HELP longshore:x A\n# TYPE longshore:x histogram\nlongshore:x_bucket{model_name="a\\"b",le="1"} 2\nlongshore:x_bucket{model_name="a\\"b",le="2"} 6\nlongshore:x_bucket{model_name="a\\"b",le="+Inf"} 8\nlongshore:y{kind="p"} 3\nlongshore:y{kind="q"} 4e1\nother_y 9\n';
      const scrape = new metrics.Scrape(text, 0);
      same(scrape.get('y'), 43);
      same(scrape.get('y', { kind: 'q' }), 40);
      same(scrape.get('missing'), 0);
      same(metrics.parseMetrics(text)[0].labels.model_name, 'a"b');
      const all = scrape.histogram('x');
      same(metrics.quantile(all, 0.5), 1.5);
      same(metrics.quantile(all, 0.25), 1);
      same(metrics.quantile(all, 0.99), 2); // beyond the last bound
      same(Number.isNaN(metrics.quantile({ bounds: [1, Infinity], counts: [0, 0] }, 0.5)), true);
      same(metrics.difference(all, { bounds: all.bounds, counts: [1, 2, 3] }).counts, [1, 4, 5]);
    },

    'numbers read well': () => {
      same([0, 7, 12.34, 1234.5, 999.96, 51.2e9, NaN].map((value) => metrics.format(value)), ['0', '7', '12.3', '1.23 k', '1.00 k', '51.2 G', '–']);
      same(metrics.format(51.2e9, 'B/s'), '51.2 GB/s');
      same(metrics.format(1536, 'B', 1024), '1.50 KiB');
      same([0.0000123, 0.0123, 1.5, 119.6, NaN].map(metrics.formatSeconds), ['12.3 µs', '12.3 ms', '1.50 s', '2 min 0 s', '–']);
      same(metrics.formatCount(19968), '19,968');
      same([0.5, 0.0123, 1].map(metrics.formatPart), ['50 %', '1.2 %', '100 %']);
    },

    'settings become the fields of a request, or an error that names one': () => {
      same(settings.requestFields({}), {});
      same(settings.requestFields({ temperature: '0', top_k: ' 5 ', stop: 'a\n\nb', thinking: 'off', tool_choice: 'none' }), { temperature: 0, top_k: 5, stop: ['a', 'b'], chat_template_kwargs: { enable_thinking: false } });
      const fields = settings.requestFields({ tools: '[{"name": "f"}]', tool_choice: 'required' });
      same(fields, { tools: [{ type: 'function', function: { name: 'f' } }], tool_choice: 'required' });
      throws(() => settings.requestFields({ temperature: 'hot' }), /Temperature/);
      throws(() => settings.requestFields({ top_k: '1.5' }), /Top k: give a whole number/);
      throws(() => settings.requestFields({ tools: '{' }), /no JSON/);
      throws(() => settings.requestFields({ tools: '{}' }), /list/);
      throws(() => settings.requestFields({ tools: '[{}]' }), /Tool 1/);
    },

    'arguments are shown as JSON is read': () => {
      same(pretty('{"a":[1]}'), '{\n  "a": [\n    1\n  ]\n}');
      same(pretty('{"a'), '{"a');
    },
  };
}

collect().then(async (tests) => {
  const outcome = {};
  for (const [name, test] of Object.entries(tests)) {
    try {
      await test();
      outcome[name] = null;
    } catch (error) {
      outcome[name] = `${error.message}`.slice(0, 2000);
    }
  }
  done(outcome);
}, (error) => done({ 'the modules load': String(error) }));
