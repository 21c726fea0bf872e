// Prometheus' text format to numbers, and numbers to rates and quantiles.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

// [{ name, labels, value }], names without the prefix.
export function parseMetrics(text, prefix = 'longshore:') {
  const samples = [];
  for (const line of text.split('\n')) {
    if (line === '' || line[0] === '#') continue;
    const match = SAMPLE.exec(line);
    if (!match || !match[1].startsWith(prefix)) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? '').matchAll(LABEL)) labels[name] = value.replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
    samples.push({ name: match[1].slice(prefix.length), labels, value: match[3] === '+Inf' ? Infinity : Number(match[3]) });
  }
  return samples;
}

// One scrape: get() adds up what several sets of labels say.
export class Scrape {
  #samples = new Map();

  constructor(text, at) {
    this.at = at; // seconds
    for (const sample of parseMetrics(text)) {
      if (!this.#samples.has(sample.name)) this.#samples.set(sample.name, []);
      this.#samples.get(sample.name).push(sample);
    }
  }

  has(name) {
    return this.#samples.has(name);
  }

  get(name, labels = {}) {
    let sum = 0;
    for (const sample of this.#samples.get(name) ?? []) {
      if (Object.entries(labels).every(([key, value]) => sample.labels[key] === value)) sum += sample.value;
    }
    return sum;
  }

  // { bounds, counts } of a histogram, counts cumulative, all sets of labels together.
  histogram(name) {
    const byBound = new Map();
    for (const sample of this.#samples.get(`${name}_bucket`) ?? []) {
      const bound = sample.labels.le === '+Inf' ? Infinity : Number(sample.labels.le);
      byBound.set(bound, (byBound.get(bound) ?? 0) + sample.value);
    }
    const bounds = [...byBound.keys()].sort((a, b) => a - b);
    return { bounds, counts: bounds.map((bound) => byBound.get(bound)) };
  }
}

// What happened between two scrapes of one server.
export function difference(later, earlier) {
  return { bounds: later.bounds, counts: later.counts.map((count, i) => count - (earlier.counts[i] ?? 0)) };
}

// The value below which that part of the observations lies, as Prometheus' histogram_quantile: linear within a bucket.
// NaN without observations; the last finite bound for what lies beyond it.
export function quantile({ bounds, counts }, part) {
  const total = counts.at(-1) ?? 0;
  if (total <= 0) return NaN;
  const rank = part * total;
  const at = counts.findIndex((count) => count >= rank);
  if (bounds[at] === Infinity) return bounds[at - 1] ?? NaN;
  const low = at > 0 ? bounds[at - 1] : 0;
  const below = at > 0 ? counts[at - 1] : 0;
  const inside = counts[at] - below;
  return inside > 0 ? low + ((bounds[at] - low) * (rank - below)) / inside : bounds[at];
}

// Three figures, with a unit's prefix.
export function format(value, unit = '', base = 1000) {
  if (!Number.isFinite(value)) return '–';
  const prefixes = base === 1024 ? ['', 'Ki', 'Mi', 'Gi', 'Ti'] : ['', 'k', 'M', 'G', 'T'];
  let step = 0;
  let scaled = value;
  while (Math.abs(scaled) >= base * 0.9995 && step < prefixes.length - 1) {
    scaled /= base;
    ++step;
  }
  const size = Math.abs(scaled);
  const digits = size >= 99.95 || (step === 0 && Number.isInteger(value)) ? 0 : size >= 9.995 ? 1 : 2;
  return `${scaled.toFixed(digits)}${unit || prefixes[step] ? ' ' : ''}${prefixes[step]}${unit}`;
}

export function formatSeconds(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  if (seconds > 0 && seconds < 0.0009995) return `${format(seconds * 1e6)} µs`;
  if (seconds < 0.9995) return `${format(seconds * 1000)} ms`;
  if (seconds < 90) return `${format(seconds)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export const formatCount = (count) => Math.round(count).toLocaleString('en');

export const formatPart = (part) => (Number.isFinite(part) ? `${(part * 100).toFixed(part < 0.0995 ? 1 : 0)} %` : '–');
