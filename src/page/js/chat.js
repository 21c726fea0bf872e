// The conversation that is shown, and the answers that are being generated, shown or not.

import { Failure, streamChat } from './api.js';
import { announce, h } from './dom.js';
import { MessageView } from './message.js';
import { requestFields } from './settings.js';
import * as store from './store.js';
import { add, choose, openCalls, path, siblings, toMessages } from './tree.js';

const SAVE_EVERY = 2000; // ms, while an answer comes

// One answer on its way. Lives on when another conversation is shown.
class Generation {
  #controller = new AbortController();
  #saved = 0;

  constructor(conversation, node, onFrame) {
    this.conversation = conversation;
    this.node = node;
    this.onFrame = onFrame;
  }

  stop() {
    this.#controller.abort();
  }

  async run(body) {
    const { node } = this;
    node.timing = { start: performance.now() };
    try {
      await streamChat(body, this.#controller.signal, (chunk) => this.#take(chunk));
      node.finish ??= 'stop';
    } catch (error) {
      if (error.name === 'AbortError') {
        node.finish = 'stopped';
      } else {
        node.finish = 'error';
        node.error = error instanceof Failure ? error.message : `The page failed: ${error.message}`;
        if (!(error instanceof Failure)) console.error(error);
      }
    }
    this.#endThinking();
    node.timing.end = performance.now();
  }

  #endThinking() {
    const { timing } = this.node;
    if (timing.thought !== undefined && this.node.thinkingMs === undefined) this.node.thinkingMs = performance.now() - timing.thought;
  }

  #take(chunk) {
    const { node } = this;
    if (chunk.usage) node.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const { delta } = choice;
    if (delta.reasoning_content) {
      node.timing.first ??= performance.now();
      node.timing.thought ??= node.timing.first;
      node.reasoning = (node.reasoning ?? '') + delta.reasoning_content;
    }
    if (delta.content || delta.tool_calls) {
      node.timing.first ??= performance.now();
      this.#endThinking();
    }
    if (delta.content) node.content += delta.content;
    for (const piece of delta.tool_calls ?? []) {
      node.calls ??= [];
      node.calls[piece.index] ??= { id: piece.id, name: piece.function?.name ?? '', arguments: '' };
      node.calls[piece.index].arguments += piece.function?.arguments ?? '';
    }
    if (choice.finish_reason) node.finish = choice.finish_reason;
    this.onFrame(this);
    if (performance.now() - this.#saved > SAVE_EVERY) {
      this.#saved = performance.now();
      store.save(this.conversation).catch(() => {});
    }
  }
}

export class Chat {
  #thread;
  #hooks;
  #views = new Map(); // of the shown messages, by id
  #generations = new Map(); // by conversation
  #dirty = new Set();
  #framed = false;

  // hooks: { modelName(), changed(conversation), busy(boolean), failed(error), problem(text) }
  constructor(thread, hooks) {
    this.#thread = thread;
    this.#hooks = hooks;
    // The clock of a thought runs on while no token comes.
    setInterval(() => this.#generations.forEach((generation) => this.#markDirty(generation)), 250);
  }

  get conversation() {
    return this.shown;
  }

  get busy() {
    return this.#generations.has(this.shown?.id);
  }

  isGenerating(id) {
    return this.#generations.has(id);
  }

  open(conversation) {
    // What is being generated goes on in its own object.
    this.shown = this.#generations.get(conversation.id)?.conversation ?? conversation;
    for (const node of Object.values(this.shown.nodes)) {
      const running = this.#generations.get(this.shown.id)?.node === node;
      if (node.role === 'assistant' && !node.finish && !running) node.finish = 'interrupted';
    }
    this.#render();
    return this.shown;
  }

  send(text) {
    const shown = path(this.shown);
    add(this.shown, shown.at(-1)?.id ?? '', { role: 'user', content: text });
    return this.#generate();
  }

  stop() {
    this.#generations.get(this.shown.id)?.stop();
  }

  // Stops what is being generated for these conversations and waits for its end: nothing is saved afterwards.
  async end(ids) {
    const running = ids.map((id) => this.#generations.get(id)).filter(Boolean);
    for (const generation of running) generation.stop();
    await Promise.all(running.map((generation) => generation.done));
  }

  #regenerate(node) {
    if (this.busy) this.stop();
    this.#generate(node.parent);
  }

  #edit(node, text) {
    if (this.busy) this.stop();
    add(this.shown, node.parent, { role: node.role, content: text, callId: node.callId, name: node.name });
    if (node.role === 'tool' && openCalls(this.shown).length > 0) {
      this.#save();
      this.#render();
      return;
    }
    this.#generate();
  }

  #choose(id) {
    choose(this.shown, id);
    this.#save();
    this.#render();
    this.#thread.querySelector(`[data-id="${id}"] .branches button:not([disabled])`)?.focus();
  }

  // Answers the path that ends at `parent`, or the shown one.
  async #generate(parent = path(this.shown).at(-1).id) {
    const conversation = this.shown;
    let fields;
    try {
      fields = requestFields(conversation.settings);
    } catch (error) {
      this.#save();
      this.#render();
      this.#hooks.problem(error.message);
      return;
    }
    const previous = this.#generations.get(conversation.id);
    if (previous) await previous.done;
    const nodes = [];
    for (let id = parent; id !== ''; id = conversation.nodes[id].parent) nodes.unshift(conversation.nodes[id]);
    const body = { model: this.#hooks.modelName(), messages: toMessages(nodes, conversation.settings.system), ...fields };
    const node = add(conversation, parent, { role: 'assistant' });
    const generation = new Generation(conversation, node, (of) => this.#markDirty(of));
    this.#generations.set(conversation.id, generation);
    this.#save(conversation);
    this.#render();
    this.#toBottom();
    this.#hooks.busy(true);
    announce(`${this.#hooks.modelName()} answers`);
    generation.done = generation.run(body).then(() => this.#finish(generation));
    await generation.done;
  }

  #finish(generation) {
    const { conversation, node } = generation;
    this.#generations.delete(conversation.id);
    this.#dirty.delete(generation);
    this.#save(conversation);
    if (node.error) this.#hooks.failed();
    if (conversation === this.shown) {
      this.#views.get(node.id)?.finish();
      this.#showForms();
      this.#hooks.busy(false);
      announce(node.error ?? (node.calls?.length ? `The answer calls ${node.calls.map((call) => call.name).join(', ')}` : `The answer is complete. ${node.content.slice(0, 400)}`));
    }
    this.#hooks.changed(conversation);
  }

  // Tokens come faster than frames: what is new is shown once per frame.
  #markDirty(generation) {
    this.#dirty.add(generation);
    if (this.#framed) return;
    this.#framed = true;
    requestAnimationFrame(() => {
      this.#framed = false;
      for (const one of this.#dirty) this.#views.get(one.node.id)?.sync();
      this.#dirty.clear();
    });
  }

  #save(conversation = this.shown) {
    this.#hooks.changed(conversation);
    store.save(conversation).catch((error) => this.#hooks.problem(`This browser does not keep the conversation: ${error?.message ?? 'its storage is full or forbidden'}`));
  }

  #render() {
    this.#views.clear();
    const actions = {
      modelName: this.#hooks.modelName,
      regenerate: (node) => this.#regenerate(node),
      edit: (node, text) => this.#edit(node, text),
      choose: (id) => this.#choose(id),
      siblings: (node) => siblings(this.shown, node),
    };
    const elements = path(this.shown).map((node) => {
      const view = new MessageView(node, actions);
      this.#views.set(node.id, view);
      return view.element;
    });
    this.#thread.replaceChildren(...elements);
    if (!this.busy) this.#showForms();
    this.#hooks.busy(this.busy);
  }

  #toBottom() {
    // The thread's frame counts from the bottom: see style.css.
    this.#thread.parentElement.scrollTop = 0;
  }

  // A box for the result of every call that has none.
  #showForms() {
    this.#thread.querySelector('.results')?.remove();
    const calls = openCalls(this.shown);
    this.#hooks.waiting(calls.length);
    if (calls.length === 0) return;
    const areas = calls.map((call) => h('textarea', { id: `result-${call.id}`, rows: 2, class: 'mono', required: true, spellcheck: 'false', placeholder: '{"result": …}' }));
    const form = h(
      'form',
      {
        class: 'results',
        onsubmit: (event) => {
          event.preventDefault();
          let parent = path(this.shown).at(-1).id;
          calls.forEach((call, index) => {
            parent = add(this.shown, parent, { role: 'tool', callId: call.id, name: call.name, content: areas[index].value }).id;
          });
          this.#generate();
        },
        onkeydown: (event) => {
          if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit();
        },
      },
      calls.map((call, index) => [h('label', { for: `result-${call.id}` }, 'Result of ', h('code', {}, call.name)), areas[index]]),
      h('div', { class: 'row' }, h('button', { class: 'button primary' }, calls.length > 1 ? 'Send the results' : 'Send the result')),
    );
    this.#thread.append(form);
  }
}
