// One message of the thread as elements. sync() shows what the node has got since the last time.

import { copyButton, h, icon, iconButton } from './dom.js';
import { MarkdownView, renderMarkdown } from './markdown.js';
import { colour } from './colour.js';
import { formatSeconds } from './metrics.js';

// JSON as people read it; what is none stays as it is.
export function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

// Text that only grows: appended, never set anew.
class GrowingText {
  constructor(element) {
    this.node = document.createTextNode('');
    element.append(this.node);
    this.shown = 0;
  }

  sync(text) {
    if (text.length > this.shown) this.node.appendData(text.slice(this.shown));
    this.shown = text.length;
  }
}

// The folded thoughts: built when they are opened, as nobody looks before.
class Thinking {
  #body = h('div', { class: 'markdown' });
  #view = null;
  #shown = 0;
  #text = '';
  #done = false;

  constructor() {
    this.label = h('span', {}, 'Thinking');
    this.element = h('details', { class: 'thinking', hidden: true }, h('summary', {}, this.label), this.#body);
    this.element.addEventListener('toggle', () => this.#build());
  }

  sync(text, milliseconds, done) {
    this.element.hidden = text === '' && !(milliseconds > 0);
    if (this.element.hidden) return;
    this.#text = text;
    this.#done = done;
    const time = milliseconds === undefined ? '' : formatSeconds(milliseconds / 1000);
    const label = done ? (time ? `Thought for ${time}` : 'Thoughts') : `Thinking… ${time}`;
    if (this.label.textContent !== label) this.label.textContent = label;
    this.element.classList.toggle('busy', !done);
    this.#build();
  }

  #build() {
    if (!this.element.open || (this.#done && this.#view === 'over')) return;
    this.#view ??= new MarkdownView(this.#body);
    this.#view.push(this.#text.slice(this.#shown));
    this.#shown = this.#text.length;
    this.#view.flush();
    if (!this.#done) return;
    this.#view.end();
    this.#view = 'over';
  }
}

class ToolCall {
  constructor(call) {
    this.name = h('span', { class: 'call-name' }, call.name);
    this.code = h('code');
    this.growing = new GrowingText(this.code);
    this.element = h(
      'section',
      { class: 'call', 'aria-label': `Tool call ${call.name}` },
      h('div', { class: 'call-head' }, icon('tool'), h('span', {}, 'Calls '), this.name),
      h('pre', { tabindex: '0', role: 'region', 'aria-label': 'Arguments' }, this.code),
    );
  }

  sync(call, done) {
    if (!done) return this.growing.sync(call.arguments);
    if (this.finished) return;
    this.finished = true;
    this.code.textContent = pretty(call.arguments || '{}');
    colour(this.code, 'json');
  }
}

const FINISHES = {
  length: 'Cut at the longest answer allowed.',
  stopped: 'Stopped.',
  interrupted: 'Interrupted: the page was left before the answer was complete.',
};

function metaOf(node) {
  const parts = [];
  const tokens = node.usage?.completion_tokens;
  if (tokens !== undefined) parts.push(`${tokens} tokens`);
  const { first, end, start } = node.timing ?? {};
  if (tokens > 1 && end > first) parts.push(`${(((tokens - 1) * 1000) / (end - first)).toFixed(1)} tokens/s`);
  if (first >= start) parts.push(`first after ${formatSeconds((first - start) / 1000)}`);
  const cached = node.usage?.prompt_tokens_details?.cached_tokens;
  if (cached > 0) parts.push(`${cached} of ${node.usage.prompt_tokens} prompt tokens from the cache`);
  return parts.join(' · ');
}

// actions: { regenerate, edit, choose(id), siblings(node), modelName() }
export class MessageView {
  #actions;
  #content = h('div', { class: 'markdown' });
  #markdown = null;
  #shown = 0;
  #thinking = null;
  #calls = [];
  #callList = h('div', { class: 'calls' });
  #notice = h('p', { class: 'notice', hidden: true });
  #footer = h('div', { class: 'actions' });

  constructor(node, actions) {
    this.node = node;
    this.#actions = actions;
    const who = { user: 'You', assistant: actions.modelName(), tool: 'Result' }[node.role];
    this.element = h('article', { class: `message ${node.role}`, 'data-id': node.id }, h('h3', { class: 'visually-hidden' }, who));
    if (node.role === 'assistant') {
      this.#thinking = new Thinking();
      this.element.append(this.#thinking.element, this.#content, this.#callList, this.#notice);
    } else if (node.role === 'tool') {
      const code = h('code', {}, pretty(node.content));
      colour(code, 'json');
      this.element.append(
        h('section', { class: 'call result', 'aria-label': `Result of ${node.name ?? 'the call'}` },
          h('div', { class: 'call-head' }, icon('check'), h('span', {}, 'Result of '), h('span', { class: 'call-name' }, node.name ?? 'the call')),
          h('pre', { tabindex: '0', role: 'region', 'aria-label': 'Result' }, code)),
      );
    } else {
      this.#content.classList.add('plain');
      this.#content.textContent = node.content;
      this.element.append(this.#content);
    }
    this.element.append(this.#footer);
    if (node.role === 'assistant') this.sync();
    if (node.finish || node.role !== 'assistant') this.#finish();
  }

  // Assistant only.
  sync() {
    const { node } = this;
    const done = Boolean(node.finish);
    const thinking = !done && !node.content && !node.calls?.length;
    const since = node.timing?.thought;
    const spent = node.thinkingMs ?? (since === undefined ? undefined : performance.now() - since);
    this.#thinking.sync(node.reasoning ?? '', spent, !thinking);
    if (node.content.length > this.#shown) {
      this.#markdown ??= new MarkdownView(this.#content);
      this.#markdown.push(node.content.slice(this.#shown));
      this.#shown = node.content.length;
      if (!done) this.#markdown.flush();
    }
    (node.calls ?? []).forEach((call, index) => {
      if (!this.#calls[index]) {
        this.#calls[index] = new ToolCall(call);
        this.#callList.append(this.#calls[index].element);
      }
      this.#calls[index].sync(call, done);
    });
    this.element.classList.toggle('waiting', !done && !node.content && !node.reasoning && !node.calls?.length);
    this.element.setAttribute('aria-busy', String(!done));
  }

  // The answer is complete, or will never be.
  finish() {
    this.sync();
    this.#finish();
  }

  #finish() {
    const { node } = this;
    if (this.#markdown) {
      this.#markdown.end();
      this.#markdown = null;
      // References are defined anywhere in a text: now all of it is known.
      if (/^ {0,3}\[[^\]]+\]: /m.test(node.content)) this.#content.replaceChildren(renderMarkdown(node.content));
    }
    const notice = node.error ?? FINISHES[node.finish] ?? '';
    this.#notice.textContent = notice;
    this.#notice.hidden = notice === '';
    this.#notice.classList.toggle('bad', Boolean(node.error));
    this.refreshActions();
  }

  refreshActions() {
    const { node } = this;
    const { index, ids } = this.#actions.siblings(node);
    const buttons = [];
    if (ids.length > 1) {
      buttons.push(
        h('span', { class: 'branches', role: 'group', 'aria-label': 'Versions of this message' },
          iconButton('left', 'Previous version', () => this.#actions.choose(ids[index - 1]), { disabled: index === 0 }),
          h('span', {}, `${index + 1} / ${ids.length}`),
          iconButton('right', 'Next version', () => this.#actions.choose(ids[index + 1]), { disabled: index === ids.length - 1 })),
      );
    }
    buttons.push(copyButton('Copy message', () => node.content || pretty(JSON.stringify(node.calls ?? []))));
    if (node.role === 'assistant') {
      buttons.push(iconButton('retry', 'Regenerate', () => this.#actions.regenerate(node)));
      const meta = metaOf(node);
      if (meta) buttons.push(h('span', { class: 'meta' }, meta));
    } else {
      buttons.push(iconButton('edit', 'Edit', () => this.#edit()));
    }
    this.#footer.replaceChildren(...buttons);
  }

  #edit() {
    const { node } = this;
    const area = h('textarea', { class: 'edit', 'aria-label': 'Edit the message', rows: Math.min(12, node.content.split('\n').length + 1), value: node.content });
    const close = () => {
      form.replaceWith(...hidden);
      this.element.querySelector('[aria-label="Edit"]').focus();
    };
    const form = h(
      'form',
      {
        class: 'edit-form',
        onsubmit: (event) => {
          event.preventDefault();
          if (area.value.trim() === '') return;
          this.#actions.edit(node, area.value);
        },
        onkeydown: (event) => {
          if (event.key === 'Escape') {
            event.stopPropagation();
            close();
          }
          if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit();
        },
      },
      area,
      h('div', { class: 'row' },
        h('button', { class: 'button primary' }, 'Send as a new branch'),
        h('button', { type: 'button', class: 'button', onclick: close }, 'Cancel')),
    );
    const hidden = [...this.element.children].slice(1);
    hidden[0].before(form);
    for (const child of hidden) child.remove();
    area.focus();
  }
}
