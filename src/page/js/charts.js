// The two drawings of the dashboard: a line over time, and the map of experts.

import { h, svg } from './dom.js';

const WIDTH = 240;
const HEIGHT = 48;

// The last `length` values as a line; the newest at the right, the scale from 0 to the highest seen.
export class Sparkline {
  #line = svg('path', { class: 'line' });
  #area = svg('path', { class: 'area' });

  constructor(length) {
    this.length = length;
    this.element = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', class: 'spark', 'aria-hidden': 'true' }, this.#area, this.#line);
  }

  draw(values) {
    const shown = values.slice(-this.length);
    const top = Math.max(...shown, 1e-9) * 1.08;
    const step = WIDTH / (this.length - 1);
    const begin = WIDTH - (shown.length - 1) * step;
    const points = shown.map((value, i) => `${(begin + i * step).toFixed(1)} ${(HEIGHT - 1 - (Math.max(value, 0) / top) * (HEIGHT - 3)).toFixed(1)}`);
    const line = points.length > 0 ? `M${points.join('L')}` : '';
    this.#line.setAttribute('d', line);
    this.#area.setAttribute('d', line && `${line}L${WIDTH} ${HEIGHT}L${begin.toFixed(1)} ${HEIGHT}Z`);
  }
}

// Part of a whole, or of a ceiling, as a bar: [{ name, part, kind }].
export class Bar {
  constructor(label) {
    this.element = h('div', { class: 'bar', role: 'img', 'aria-label': label });
    this.label = label;
    this.parts = [];
  }

  draw(parts, text) {
    while (this.parts.length < parts.length) {
      const element = h('i');
      this.parts.push(element);
      this.element.append(element);
    }
    parts.forEach(({ part, kind }, i) => {
      this.parts[i].className = kind;
      this.parts[i].style.width = `${(Math.min(Math.max(part, 0), 1) * 100).toFixed(2)}%`;
    });
    this.element.setAttribute('aria-label', `${this.label}: ${text}`);
  }
}

// A colour from a CSS variable as [r, g, b].
function colourOf(element, name) {
  const canvas = document.createElement('canvas');
  canvas.width = 1;
  canvas.height = 1;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  const probe = h('span');
  probe.style.color = `var(${name})`;
  element.append(probe);
  context.fillStyle = getComputedStyle(probe).color;
  probe.remove();
  context.fillRect(0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data;
}

const SHADES = 32;
const ONE = '1'.charCodeAt(0);

// Layers x experts, a point each. Hue: where the expert lies; depth: how often it was wanted lately.
export class HeatMap {
  #canvas = h('canvas', { class: 'heat', tabindex: '0', role: 'img' });
  #context = this.#canvas.getContext('2d');
  #image = null;
  #shades = null; // two ramps of packed colours: host, device
  #heat = new Float32Array(0);
  #uses = null;
  #data = null;
  #cursor = null;
  #read = h('output', { class: 'heat-read', 'aria-live': 'polite' });

  constructor() {
    this.element = h('div', {}, this.#canvas, this.#read);
    this.#canvas.addEventListener('pointermove', (event) => this.#point(event));
    this.#canvas.addEventListener('pointerleave', () => this.#move(null));
    this.#canvas.addEventListener('blur', () => this.#move(null));
    this.#canvas.addEventListener('keydown', (event) => this.#key(event));
    // A change of the theme changes the ramps.
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => (this.#shades = null));
    new MutationObserver(() => (this.#shades = null)).observe(document.documentElement, { attributeFilter: ['data-theme'] });
  }

  // data: the answer of /v1/offload. decay: of the heat since the last call, 0 to 1. restarted: the counts began anew.
  draw(data, decay, restarted) {
    const layers = data.layers;
    const experts = data.experts_per_layer;
    const size = layers * experts;
    if (size === 0) return;
    if (this.#heat.length !== size) {
      this.#heat = new Float32Array(size);
      this.#uses = null;
      this.#canvas.width = experts;
      this.#canvas.height = layers;
      this.#canvas.style.aspectRatio = `${experts} / ${Math.max(layers * 0.75, experts / 8)}`;
      this.#image = this.#context.createImageData(experts, layers);
    }
    if (restarted) this.#uses = null;
    this.#warm(data.uses, decay, experts);
    this.#data = data;
    this.#describe(this.#paint(data.resident, layers, experts));
  }

  #warm(uses, decay, experts) {
    const heat = this.#heat;
    const before = this.#uses;
    for (let layer = 0; layer < uses.length; ++layer) {
      const row = uses[layer];
      const old = before?.[layer];
      for (let e = 0; e < experts; ++e) {
        const at = layer * experts + e;
        heat[at] = heat[at] * decay + (old ? row[e] - old[e] : 0);
      }
    }
    this.#uses = uses;
  }

  // Returns how many are on the device.
  #paint(resident, layers, experts) {
    this.#shades ??= this.#makeShades();
    const pixels = new Uint32Array(this.#image.data.buffer);
    const heat = this.#heat;
    const [host, device] = this.#shades;
    let count = 0;
    let top = 0;
    for (let at = 0; at < heat.length; ++at) top = Math.max(top, heat[at]);
    // Use is as uneven as can be: the logarithm's square shows the few hot ones and lets the many cold ones rest.
    const scale = top > 0 ? 1 / Math.log1p(top) : 0;
    for (let layer = 0; layer < layers; ++layer) {
      const here = resident[layer];
      for (let e = 0; e < experts; ++e) {
        const at = layer * experts + e;
        const warmth = heat[at] > 0 ? Math.log1p(heat[at]) * scale : 0;
        const shade = Math.round(warmth * warmth * (SHADES - 1));
        const there = here !== undefined && here.charCodeAt(e) === ONE;
        if (there) ++count;
        pixels[at] = (there ? device : host)[shade];
      }
    }
    this.#context.putImageData(this.#image, 0, 0);
    return count;
  }

  #makeShades() {
    return ['host', 'device'].map((place) => {
      const cold = colourOf(this.element, `--${place}-cold`);
      const hot = colourOf(this.element, `--${place}-hot`);
      return Uint32Array.from({ length: SHADES }, (_, i) => {
        const mix = (c) => Math.round(cold[c] + ((hot[c] - cold[c]) * i) / (SHADES - 1));
        return (255 << 24) | (mix(2) << 16) | (mix(1) << 8) | mix(0);
      });
    });
  }

  #describe(here) {
    const { layers, experts_per_layer: experts } = this.#data;
    this.#canvas.setAttribute('aria-label', `${layers} layers of ${experts} experts, ${here} of ${layers * experts} on the device. Arrow keys read one.`);
    this.#say();
  }

  #point(event) {
    if (!this.#data) return;
    const box = this.#canvas.getBoundingClientRect();
    const e = Math.floor(((event.clientX - box.left) / box.width) * this.#canvas.width);
    const layer = Math.floor(((event.clientY - box.top) / box.height) * this.#canvas.height);
    this.#move({ layer, e });
  }

  #key(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step || !this.#data) return;
    event.preventDefault();
    const { layer, e } = this.#cursor ?? { layer: 0, e: 0 };
    this.#move({ layer: layer + step[0], e: e + step[1] });
  }

  #move(cursor) {
    if (cursor) {
      cursor.layer = Math.min(Math.max(cursor.layer, 0), this.#canvas.height - 1);
      cursor.e = Math.min(Math.max(cursor.e, 0), this.#canvas.width - 1);
    }
    this.#cursor = cursor;
    this.#say();
  }

  #say() {
    let text = this.#data ? 'Point at an expert, or read them with the arrow keys.' : '';
    if (this.#cursor && this.#data) {
      const { layer, e } = this.#cursor;
      const here = this.#data.resident[layer]?.[e] === '1';
      const uses = this.#data.uses[layer]?.[e];
      text = `Layer ${layer + this.#data.first_layer}, expert ${e}: ${here ? 'on the device' : 'in host memory'}${uses === undefined ? '' : `, ${uses} tokens since the start`}`;
    }
    if (this.#read.textContent !== text) this.#read.textContent = text;
  }
}
