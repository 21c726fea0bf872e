// What a conversation is generated with: plain strings as typed, so that an empty field means "as the model's makers say".

import { h, set } from './dom.js';

export const NUMBERS = [
  // [field of the request, label, lowest, highest, step, hint]
  ['temperature', 'Temperature', 0, 2, 0.05, '0: always the likeliest token'],
  ['top_p', 'Top p', 0, 1, 0.01, 'the likeliest tokens that together have this probability'],
  ['top_k', 'Top k', -1, 1000, 1, 'the k likeliest tokens; -1: all'],
  ['min_p', 'Min p', 0, 1, 0.01, 'tokens at least this likely, relative to the likeliest'],
  ['repetition_penalty', 'Repetition penalty', 0.01, 2, 0.01, '1: none'],
  ['presence_penalty', 'Presence penalty', -2, 2, 0.1, '0: none'],
  ['frequency_penalty', 'Frequency penalty', -2, 2, 0.1, '0: none'],
  ['max_tokens', 'Longest answer', 1, 1_000_000, 1, 'tokens; empty: what the context leaves'],
  ['seed', 'Seed', 0, 2 ** 53 - 1, 1, 'the same seed, the same answer'],
];

export const EXAMPLE_TOOLS = JSON.stringify(
  [
    {
      type: 'function',
      function: {
        name: 'get_weather',
        description: 'Get the current weather of a city',
        parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
      },
    },
  ],
  null,
  2,
);

// The list of tools, or an Error that says where it is wrong.
export function parseTools(text) {
  if (!text?.trim()) return [];
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new Error(`Tools are no JSON: ${error.message}`);
  }
  if (!Array.isArray(tools)) throw new Error('Tools must be a list: [ … ]');
  return tools.map((given, index) => {
    // A bare function is meant as one.
    const tool = given?.function === undefined && given?.name !== undefined ? { type: 'function', function: given } : given;
    if (tool?.type !== 'function' || typeof tool.function?.name !== 'string' || tool.function.name === '') {
      throw new Error(`Tool ${index + 1} needs "type": "function" and a "function" with a "name"`);
    }
    return tool;
  });
}

// Settings to the fields of a request; throws an Error that names the field.
export function requestFields(settings) {
  const fields = {};
  for (const [name, label, low, high, step] of NUMBERS) {
    const typed = String(settings[name] ?? '').trim();
    if (typed === '') continue;
    const value = Number(typed);
    if (!Number.isFinite(value) || value < low || value > high || (step === 1 && !Number.isInteger(value))) {
      throw new Error(`${label}: give ${step === 1 ? 'a whole number' : 'a number'} from ${low} to ${high}`);
    }
    fields[name] = value;
  }
  const stops = (settings.stop ?? '').split('\n').filter((line) => line !== '');
  if (stops.length > 0) fields.stop = stops;
  if (settings.thinking) fields.chat_template_kwargs = { enable_thinking: settings.thinking === 'on' };
  const tools = parseTools(settings.tools);
  if (tools.length > 0) {
    fields.tools = tools;
    if (settings.tool_choice && settings.tool_choice !== 'auto') fields.tool_choice = settings.tool_choice;
  }
  return fields;
}

// How much of it is set, for the buttons beside the message box.
export function summary(settings) {
  let tools = 0;
  let broken = false;
  try {
    tools = parseTools(settings.tools).length;
  } catch {
    broken = true;
  }
  const sampling = NUMBERS.filter(([name]) => String(settings[name] ?? '').trim() !== '').length + (settings.stop ? 1 : 0);
  return { tools, broken, sampling, system: Boolean(settings.system?.trim()) };
}

function field(label, control, hint, wide = false) {
  const id = `setting-${control.name}`;
  control.id = id;
  const note = hint ? h('small', { id: `${id}-hint` }, hint) : null;
  if (note) control.setAttribute('aria-describedby', note.id);
  return h('div', { class: wide ? 'field wide' : 'field' }, h('label', { for: id }, label), control, note);
}

function select(name, options) {
  return h('select', { name }, options.map(([value, label]) => h('option', { value }, label)));
}

// Fills the form of the settings' sheet once; bind() connects it to a conversation's settings.
export class SettingsForm {
  #form;
  #settings = {};
  #changed = () => {};
  #problem = h('p', { class: 'problem', role: 'alert', id: 'settings-problem' });

  constructor(form) {
    this.#form = form;
    form.append(
      h('fieldset', {}, h('legend', {}, 'System prompt'), field('What the model is told first', h('textarea', { name: 'system', rows: 4 }), '', true)),
      h(
        'fieldset',
        {},
        h('legend', {}, 'Thinking'),
        field('Before it answers', select('thinking', [['', 'As the model does'], ['on', 'Think'], ['off', 'Answer at once']]), '', true),
      ),
      h(
        'fieldset',
        {},
        h('legend', {}, 'Tools'),
        field(
          'Functions the model may call, as JSON',
          h('textarea', { name: 'tools', rows: 9, class: 'mono', spellcheck: 'false', placeholder: '[]' }),
          'The page runs nothing: you see every call and give its result.',
          true,
        ),
        h('div', { class: 'field' }, h('button', { type: 'button', class: 'button', id: 'example-tools', onclick: () => this.#insertExample() }, 'Insert an example')),
        field('Calls', select('tool_choice', [['auto', 'When it wants'], ['none', 'Never'], ['required', 'Always']])),
      ),
      h(
        'fieldset',
        {},
        h('legend', {}, 'Sampling'),
        NUMBERS.map(([name, label, , , , hint]) =>
          field(label, h('input', { name, inputmode: 'decimal', autocomplete: 'off', placeholder: "model's" }), hint),
        ),
        field('Stop at', h('textarea', { name: 'stop', rows: 2, class: 'mono' }), 'one text a line', true),
      ),
      this.#problem,
      h('button', { type: 'button', class: 'button', onclick: () => this.#reset() }, 'Reset to the model’s own'),
    );
    form.addEventListener('input', () => this.#take());
    form.addEventListener('submit', (event) => event.preventDefault());
  }

  bind(settings, changed) {
    this.#settings = settings;
    this.#changed = changed;
    this.#show();
  }

  #controls() {
    return [...this.#form.elements].filter((control) => control.name);
  }

  #show() {
    for (const control of this.#controls()) {
      control.value = this.#settings[control.name] ?? (control.name === 'tool_choice' ? 'auto' : '');
    }
    this.#check();
  }

  #take() {
    for (const control of this.#controls()) {
      if (control.value === '') {
        delete this.#settings[control.name];
      } else {
        this.#settings[control.name] = control.value;
      }
    }
    this.#check();
    this.#changed();
  }

  #check() {
    let problem = '';
    try {
      requestFields(this.#settings);
    } catch (error) {
      problem = error.message;
    }
    this.#problem.textContent = problem;
    set(this.#form, { 'aria-invalid': problem !== '' });
  }

  #insertExample() {
    const tools = this.#form.elements.tools;
    let list = [];
    try {
      list = parseTools(tools.value);
    } catch {
      return; // what was typed stays; the problem is shown
    }
    tools.value = JSON.stringify([...list, ...JSON.parse(EXAMPLE_TOOLS)], null, 2);
    this.#take();
  }

  #reset() {
    for (const control of this.#controls()) control.value = control.name === 'tool_choice' ? 'auto' : '';
    this.#take();
  }
}
