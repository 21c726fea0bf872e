// Where the time goes: /metrics and /v1/offload, asked once a second while somebody looks.

import { request } from './api.js';
import { Bar, HeatMap, Sparkline } from './charts.js';
import { h } from './dom.js';
import { Scrape, difference, format, formatCount, formatPart, formatSeconds, quantile } from './metrics.js';

const PERIOD = 1000; // ms between two looks
const KEPT = 120; // samples of a line
const WINDOW = 60; // samples of the latencies
const HEAT_HALF_LIFE = 10; // seconds

function panel(title, wide, ...children) {
  const id = `panel-${title.toLowerCase().replace(/[^a-z]+/g, '-')}`;
  return h('section', { class: `panel ${wide}`, 'aria-labelledby': id, 'data-panel': id }, h('h3', { id }, title), ...children);
}

// A figure with a name, and a line of its past.
class Tile {
  #value = h('strong', {}, '–');
  #note = h('small', {}, '');
  #past = [];
  #spark = new Sparkline(KEPT);

  constructor(name, id) {
    this.element = h('div', { class: 'tile', id }, h('h3', {}, name), this.#value, this.#note, this.#spark.element);
  }

  // null: nothing is known yet.
  put(number, text, note = '') {
    if (number === null) return;
    this.#past.push(number);
    if (this.#past.length > KEPT) this.#past.shift();
    write(this.#value, text);
    write(this.#note, note);
    this.#spark.draw(this.#past);
  }
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Lines of "name ... value" that keep their elements.
class Facts {
  #values = new Map();

  constructor(kind = '') {
    this.element = h('dl', { class: `facts ${kind}` });
  }

  // mark: of the colour that stands for it.
  put(name, text, title = '', mark = '') {
    if (!this.#values.has(name)) {
      const value = h('dd', { 'data-fact': name });
      this.#values.set(name, value);
      this.element.append(h('div', {}, h('dt', {}, mark && h('i', { class: mark }), name), value));
    }
    write(this.#values.get(name), text);
    if (title) this.#values.get(name).title = title;
  }
}

const PARTS = [
  ['forward', 'Forward pass', 'c1'],
  ['sample', 'Sampling', 'c2'],
  ['plan', 'Planning', 'c3'],
  ['deliver', 'Delivery', 'c4'],
  ['idle', 'Idle', 'c0'],
];

const LATENCIES = [
  ['First token', 'time_to_first_token_seconds'],
  ['Between tokens', 'inter_token_latency_seconds'],
  ['Whole answer', 'e2e_request_latency_seconds'],
  ['In the queue', 'request_queue_time_seconds'],
];

export class Dashboard {
  #scrapes = [];
  #offloads = [];
  #timer = 0;
  #looking = false;
  #tiles = {
    decode: new Tile('Generated tokens/s', 'tile-decode'),
    prefill: new Tile('Prompt tokens/s', 'tile-prefill'),
    running: new Tile('Requests', 'tile-running'),
    batch: new Tile('Tokens per step', 'tile-batch'),
  };
  #timeBar = new Bar('Engine time');
  #timeFacts = new Facts('in-line');
  #cacheBar = new Bar('Cache pages');
  #cacheFacts = new Facts();
  #wireBar = new Bar('PCIe');
  #dramBar = new Bar('DRAM');
  #trafficFacts = new Facts();
  #expertFacts = new Facts();
  #specFacts = new Facts();
  #requestFacts = new Facts();
  #latency = new Map();
  #heat = new HeatMap();
  #heatNote = h('p', { class: 'quiet' });
  #state = h('p', { class: 'quiet', role: 'status' }, 'Waiting for figures…');

  // failed: called when the server did not answer.
  constructor(host, failed) {
    this.failed = failed;
    const rows = LATENCIES.map(([label, name]) => {
      const cells = ['p50', 'p95', 'p99'].map((part) => h('td', { 'data-latency': `${name}-${part}` }, '–'));
      this.#latency.set(name, cells);
      return h('tr', {}, h('th', { scope: 'row' }, label), cells);
    });
    const legend = (items) => h('ul', { class: 'legend' }, items.map(([kind, text]) => h('li', {}, h('i', { class: kind }), text)));
    host.append(
      h('div', { class: 'tiles' }, Object.values(this.#tiles).map((tile) => tile.element)),
      this.#state,
      h('div', { class: 'panels' },
        panel('Where the time goes', 'full', this.#timeBar.element, this.#timeFacts.element),
        panel('Experts, layer by layer', 'full',
          legend([['host-ramp', 'in host memory, cold to hot'], ['device-ramp', 'on the device, cold to hot']]), this.#heat.element, this.#heatNote),
        panel('Latency, last minute', '',
          h('table', { class: 'latency' },
            h('thead', {}, h('tr', {}, ['', 'Half below', '95 %', '99 %'].map((text) => (text ? h('th', { scope: 'col' }, text) : h('td'))))),
            h('tbody', {}, rows))),
        panel('KV and index cache', '', this.#cacheBar.element, legend([['c1', 'running'], ['c3', 'known prefixes'], ['c0', 'free']]), this.#cacheFacts.element),
        panel('Memory traffic of experts', '', h('p', { class: 'bar-name' }, 'PCIe, of its ceiling'), this.#wireBar.element, h('p', { class: 'bar-name' }, 'DRAM, of its ceiling'), this.#dramBar.element, this.#trafficFacts.element),
        panel('Experts', '', this.#expertFacts.element),
        panel('Speculation', '', this.#specFacts.element),
        panel('Requests since the start', '', this.#requestFacts.element),
      ),
    );
    document.addEventListener('visibilitychange', () => this.#schedule(0));
  }

  // Only what is seen costs anything.
  look(looking) {
    this.#looking = looking;
    this.#schedule(0);
  }

  #schedule(delay) {
    clearTimeout(this.#timer);
    if (this.#looking && !document.hidden) this.#timer = setTimeout(() => this.#refresh(), delay);
  }

  async #refresh() {
    const begin = performance.now();
    try {
      const metrics = await (await request('metrics', {}, true)).text();
      this.#showMetrics(new Scrape(metrics, performance.now() / 1000));
      const offload = await (await request('v1/offload', {}, true)).json();
      // A frame of its own: the map is the dearest of all.
      requestAnimationFrame(() => this.#showOffload(offload, performance.now() / 1000));
      write(this.#state, '');
    } catch (error) {
      write(this.#state, error.message);
      if (error.kind === 'unreachable') this.failed();
    }
    this.#schedule(Math.max(100, PERIOD - (performance.now() - begin)));
  }

  #showMetrics(now) {
    const last = this.#scrapes.at(-1);
    // Counters never fall but by a restart.
    if (last && now.get('num_steps_total') < last.get('num_steps_total')) this.#scrapes = [];
    const before = this.#scrapes.at(-1) ?? now;
    this.#scrapes.push(now);
    if (this.#scrapes.length > WINDOW + 1) this.#scrapes.shift();
    const seconds = now.at - before.at;
    const grown = (name, labels) => now.get(name, labels) - before.get(name, labels);
    const rate = (name, labels) => (seconds > 0 ? grown(name, labels) / seconds : 0);
    const known = (number) => (seconds > 0 ? number : null);

    const decode = rate('generation_tokens_total');
    this.#tiles.decode.put(known(decode), format(decode), decode > 0 && now.get('num_running_reqs') > 0 ? `${format(decode / now.get('num_running_reqs'))} each` : '');
    const computed = rate('step_tokens_total', { kind: 'prefill' });
    this.#tiles.prefill.put(known(computed), format(computed), `${format(rate('cached_tokens_total'))} more from the cache`);
    this.#tiles.running.put(now.get('num_running_reqs'), format(now.get('num_running_reqs')), `of ${format(now.get('max_running_requests'))} · ${format(now.get('num_queue_reqs'))} in the queue`);
    const steps = grown('num_steps_total');
    const batch = steps > 0 ? grown('step_tokens_total') / steps : 0;
    this.#tiles.batch.put(known(batch), format(batch), `${format(steps > 0 ? grown('step_tokens_total', { kind: 'decode' }) / steps : 0)} decoded · ${format(seconds > 0 ? steps / seconds : 0)} steps/s`);

    this.#showTime(grown, seconds);
    this.#showLatency(now);
    this.#showCache(now, grown);
    this.#showSpeculation(now, grown);
    const facts = this.#requestFacts;
    facts.put('Finished', formatCount(now.get('num_requests_total') - now.get('num_aborted_requests_total')));
    facts.put('Cancelled, late or failed', formatCount(now.get('num_aborted_requests_total')));
    facts.put('Refused, queue full', formatCount(now.get('num_refused_requests_total')));
    facts.put('Preempted', formatCount(now.get('num_retracted_requests_total')));
    facts.put('Prompt tokens', format(now.get('prompt_tokens_total')));
    facts.put('Generated tokens', format(now.get('generation_tokens_total')));
  }

  #showTime(grown, seconds) {
    const spent = Object.fromEntries(PARTS.map(([part]) => [part, part === 'idle' ? 0 : grown('step_seconds_total', { part })]));
    const busy = Object.values(spent).reduce((sum, one) => sum + one, 0);
    // A step that began before the last look is counted whole when it ends.
    const whole = Math.max(seconds, busy);
    if (!(whole > 0)) return;
    spent.idle = whole - busy;
    const parts = PARTS.map(([part, name, kind]) => ({ name, part: spent[part] / whole, kind }));
    this.#timeBar.draw(parts, parts.map(({ name, part }) => `${name} ${formatPart(part)}`).join(', '));
    parts.forEach(({ name, part, kind }) => this.#timeFacts.put(name, formatPart(part), '', kind));
  }

  #showLatency(now) {
    for (const [name, cells] of this.#latency) {
      const recent = difference(now.histogram(name), this.#scrapes[0].histogram(name));
      [0.5, 0.95, 0.99].forEach((part, i) => write(cells[i], formatSeconds(quantile(recent, part))));
    }
  }

  #showCache(now, grown) {
    const pages = Object.fromEntries(['used', 'cached', 'free'].map((state) => [state, now.get('kv_pages', { state })]));
    const total = pages.used + pages.cached + pages.free;
    if (total > 0) {
      const text = `${pages.used} of ${total} pages used, ${pages.cached} hold known prefixes`;
      this.#cacheBar.draw([{ part: pages.used / total, kind: 'c1' }, { part: pages.cached / total, kind: 'c3' }, { part: pages.free / total, kind: 'c0' }], text);
    }
    const facts = this.#cacheFacts;
    const held = pages.used + pages.cached;
    facts.put('Pages used / prefixes / all', `${formatCount(pages.used)} / ${formatCount(pages.cached)} / ${formatCount(total)}`);
    facts.put('Latents held', format(held * now.get('kv_page_bytes', { part: 'latent' }), 'B', 1024));
    facts.put('Index keys held', format(held * now.get('kv_page_bytes', { part: 'index' }), 'B', 1024));
    const queries = now.get('prefix_cache_queries_total');
    facts.put('Prefix hits, since the start', formatPart(queries > 0 ? now.get('prefix_cache_hits_total') / queries : NaN));
    const recent = grown('prefix_cache_queries_total');
    if (recent > 0) facts.put('Prefix hits, latest', formatPart(grown('prefix_cache_hits_total') / recent));
  }

  // What the engine says of drafts, where it drafts.
  #showSpeculation(now, grown) {
    const facts = this.#specFacts;
    const drafted = now.get('spec_decode_num_draft_tokens_total');
    const on = now.get('spec_num_draft_tokens') > 0 || drafted > 0 || now.get('spec_accept_length') > 0;
    facts.put('State', on ? 'on' : 'off');
    if (!on) return;
    if (now.has('spec_num_draft_tokens')) facts.put('Tokens drafted per step, k', format(now.get('spec_num_draft_tokens')));
    facts.put('Accepted length, with the bonus token', format(now.get('spec_accept_length')));
    facts.put('Acceptance', formatPart(now.get('spec_accept_rate')));
    if (drafted > 0) {
      const recent = grown('spec_decode_num_draft_tokens_total');
      facts.put('Acceptance, since the start', formatPart(now.get('spec_decode_num_accepted_tokens_total') / drafted));
      if (recent > 0) facts.put('Acceptance, latest', formatPart(grown('spec_decode_num_accepted_tokens_total') / recent));
    }
  }

  #showOffload(report, at) {
    const last = this.#offloads.at(-1);
    const restarted = Boolean(last) && report.counters.routes < last.report.counters.routes;
    if (restarted) this.#offloads = [];
    const before = this.#offloads.at(-1) ?? { report, at };
    this.#offloads.push({ report, at });
    if (this.#offloads.length > 2) this.#offloads.shift();
    const seconds = at - before.at;
    const grown = (name) => report.counters[name] - before.report.counters[name];

    const { ceilings, rates, counters } = report;
    const wire = seconds > 0 ? grown('wire_bytes') / seconds : 0;
    const dram = seconds > 0 ? grown('cpu_bytes') / seconds : 0;
    // The CPU's experts have a ceiling of their own, plain reads another: the one that was measured.
    const dramCeiling = ceilings.cpu_bytes_per_second || ceilings.dram_bytes_per_second;
    const of = (rate, ceiling) => (ceiling > 0 ? `${format(rate, 'B/s')} of ${format(ceiling, 'B/s')}` : format(rate, 'B/s'));
    this.#wireBar.draw([{ part: ceilings.wire_bytes_per_second > 0 ? wire / ceilings.wire_bytes_per_second : 0, kind: 'c1' }], of(wire, ceilings.wire_bytes_per_second));
    this.#dramBar.draw([{ part: dramCeiling > 0 ? dram / dramCeiling : 0, kind: 'c2' }], of(dram, dramCeiling));
    const traffic = this.#trafficFacts;
    traffic.put('PCIe', report.device ? of(wire, ceilings.wire_bytes_per_second) : 'no device');
    traffic.put('DRAM', of(dram, dramCeiling), dramCeiling > 0 ? '' : 'ceiling not measured: serve --measure-dram');
    const busy = (bytes, time) => (grown(time) > 0 ? format(grown(bytes) / grown(time), 'B/s') : '–');
    traffic.put('PCIe while busy', busy('wire_bytes', 'wire_seconds'));
    traffic.put('CPU experts while busy', busy('cpu_bytes', 'cpu_seconds'));
    if (dramCeiling === 0) traffic.put('DRAM ceiling', 'not measured: --measure-dram');

    const facts = this.#expertFacts;
    const share = (part, whole) => formatPart(whole > 0 ? part / whole : NaN);
    // What wire and CPU share is left out: it has no side.
    const chosen = (c) => c('fetched') + c('computed_on_cpu');
    const total = (name) => counters[name];
    facts.put('On the device', report.device ? `${formatCount(report.device.experts)} of ${formatCount(report.host.experts)}` : `none of ${formatCount(report.host.experts)}: no device`);
    facts.put('Hit rate, now', share(grown('hits'), grown('routed_experts')));
    facts.put('Hit rate, since the start', share(counters.hits, counters.routed_experts));
    // Of the misses, the share that is fetched rather than computed where it lies: what is best as the rates are, and what was done.
    const best = rates.wire_bytes_per_second > 0 ? rates.wire_bytes_per_second / (rates.wire_bytes_per_second + rates.cpu_bytes_per_second) : NaN;
    facts.put('q*, best share fetched', formatPart(best));
    facts.put('q, share fetched now', share(grown('fetched'), chosen(grown)));
    facts.put('q, since the start', share(counters.fetched, chosen(total)));
    facts.put('Shared by wire and CPU, now', share(grown('shared'), chosen(grown) + grown('shared')));
    facts.put('Prefetched, unused', share(counters.prefetched_unused, counters.prefetched));
    facts.put('Handshake of a layer', formatSeconds(grown('handshakes') > 0 ? grown('handshake_seconds') / grown('handshakes') : NaN));

    this.#heat.draw(report, seconds > 0 ? 0.5 ** (seconds / HEAT_HALF_LIFE) : 1, restarted);
    const note = report.uses.length === 0 && report.counters.routes > 0 ? 'Every expert is on the device: its routes stay there, and nobody counts them.' : '';
    write(this.#heatNote, note);
  }
}
