// Model text to elements, while it comes. Markdown by marked, cleaned by DOMPurify, code coloured by Prism.
//
// Nothing that a model writes becomes markup of its own: HTML in the text is text, pictures are links (a picture from
// elsewhere would tell a stranger what is being read), links are http, https or mailto. The sanitiser stands behind that as
// a second wall, and the page's Content-Security-Policy as a third.

import { marked } from './marked.js';
import DOMPurify from './purify.js';
import { copyButton, h } from './dom.js';
import { colour } from './colour.js';

const SAFE_URL = /^(?:https?:|mailto:)/i;

const escapeHtml = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.codePointAt(0)};`);

marked.use({
  mangle: false,
  headerIds: false,
  // No HTML tokens: "<b>" is three letters like any others.
  tokenizer: {
    html() {},
    tag() {},
  },
  renderer: {
    image: (href, title, text) =>
      SAFE_URL.test(href) ? `<a href="${escapeHtml(href)}">${text || escapeHtml(href)}</a>` : text,
    checkbox: (checked) => (checked ? '☑ ' : '☐ '),
    html: escapeHtml,
  },
});

const CLEAN = {
  ALLOWED_TAGS: (
    'a p br hr em strong del code pre ul ol li blockquote h1 h2 h3 h4 h5 h6 table thead tbody tr th td'
  ).split(' '),
  ALLOWED_ATTR: ['href', 'title', 'align', 'start', 'class'],
  ALLOWED_URI_REGEXP: SAFE_URL,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

function decorate(fragment) {
  for (const link of fragment.querySelectorAll('a')) {
    link.target = '_blank';
    link.rel = 'noopener noreferrer nofollow';
  }
  for (const code of fragment.querySelectorAll('pre > code')) {
    const language = /language-(\S+)/.exec(code.className)?.[1] ?? '';
    const block = codeBlock(language, code.textContent);
    code.parentElement.replaceWith(block.element);
    block.finish();
  }
  for (const table of fragment.querySelectorAll('table')) {
    const frame = h('div', { class: 'table', tabindex: '0', role: 'region', 'aria-label': 'Table' });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}

// Tokens of marked to clean elements.
function build(tokens) {
  return decorate(DOMPurify.sanitize(marked.parser(tokens), CLEAN));
}

// The whole text at once, as a fragment.
export function renderMarkdown(text) {
  const host = h('div');
  const view = new MarkdownView(host);
  view.push(text);
  view.end();
  const fragment = document.createDocumentFragment();
  fragment.append(...host.childNodes);
  return fragment;
}

function codeBlock(language, text = '') {
  const content = document.createTextNode(text);
  const code = h('code', {}, content);
  const name = language.toLowerCase().replace(/[^a-z0-9+#.-]/g, '').slice(0, 24);
  const element = h(
    'div',
    { class: 'code' },
    h('div', { class: 'code-head' }, h('span', {}, name || 'text'), copyButton('Copy code', () => code.textContent)),
    h('pre', { tabindex: '0', role: 'region', 'aria-label': `Code${name ? `, ${name}` : ''}` }, code),
  );
  return {
    element,
    set: (more) => content.replaceData(0, content.length, more),
    append: (more) => content.appendData(more),
    finish: () => colour(code, name),
  };
}

// A fence at the line's beginning. Those inside of lists are left to marked.
const OPENING = /^(`{3,}|~{3,})([^`\n]*)$/;
const isClosing = (line, marker) => line.startsWith(marker) && /^(`+|~+)\s*$/.test(line) && line[0] === marker[0];

// Appends to an element what push() brings; flush() shows it. A block that is complete is built once and never again, so the
// cost of a frame is that of the last block: a paragraph, a list, a table; code only gets letters appended.
export class MarkdownView {
  #host;
  #live; // the last block, which may still change
  #line = ''; // the last line while it is incomplete
  #prose = ''; // complete lines not built for good yet
  #fence = null; // { marker, block, shown: letters of an incomplete line }
  #changed = false;

  constructor(host) {
    this.#host = host;
    this.#live = h('div', { class: 'live' });
    host.append(this.#live);
  }

  push(text) {
    if (text === '') return;
    this.#changed = true;
    const lines = (this.#line + text.replace(/\r\n?/g, '\n')).split('\n');
    this.#line = lines.pop();
    for (const line of lines) this.#takeLine(line);
  }

  flush() {
    if (!this.#changed) return;
    this.#changed = false;
    if (this.#fence) {
      // What may become the closing fence is held back.
      if (!this.#line.startsWith(this.#fence.marker.slice(0, 1))) this.#show(this.#line);
      return;
    }
    // So is what may become a fence, or the next item of a list that would otherwise be over.
    const held = /^(?:[`~]{1,}|\s*(?:[-*+]|\d+[.)]?)?\s*$)/.test(this.#line) ? '' : this.#line;
    this.#buildProse(this.#prose + held, held);
  }

  end() {
    if (this.#line !== '') {
      const line = this.#line;
      this.#line = '';
      this.#takeLine(line);
    }
    if (this.#fence) this.#closeFence();
    this.#finishProse();
    this.#live.remove();
  }

  #takeLine(line) {
    if (this.#fence) {
      if (isClosing(line, this.#fence.marker)) return this.#closeFence();
      this.#show(line);
      this.#fence.block.append('\n');
      this.#fence.shown = 0;
      return;
    }
    const opening = OPENING.exec(line);
    if (!opening) {
      this.#prose += `${line}\n`;
      return;
    }
    this.#finishProse();
    const block = codeBlock(opening[2].trim().split(/\s/)[0]);
    this.#live.before(block.element);
    this.#fence = { marker: opening[1], block, shown: 0 };
  }

  #show(line) {
    this.#fence.block.append(line.slice(this.#fence.shown));
    this.#fence.shown = line.length;
  }

  #closeFence() {
    this.#fence.block.finish();
    this.#fence = null;
  }

  #finishProse() {
    if (this.#prose.trim() !== '') this.#live.before(build(marked.lexer(this.#prose)));
    this.#live.replaceChildren();
    this.#prose = '';
  }

  // All blocks but the last are final. A blank line ends none: a list goes on after it.
  #buildProse(text, held) {
    // marked does this to what it reads; done here first, the tokens' lengths fit the text.
    const source = text.replace(/^( *)(\t+)/gm, (_, blanks, tabs) => blanks + '    '.repeat(tabs.length));
    const tokens = marked.lexer(source);
    let last = tokens.length - 1;
    while (last > 0 && tokens[last].type === 'space') --last;
    if (last > 0) {
      const done = tokens.slice(0, last);
      const length = done.reduce((sum, token) => sum + token.raw.length, 0);
      // The incomplete line is part of the last block, or a block of its own: it is never cut.
      if (length <= source.length - held.length) {
        this.#live.before(build(done));
        this.#prose = source.slice(length, source.length - held.length);
        this.#live.replaceChildren(build(tokens.slice(last)));
        return;
      }
    }
    this.#live.replaceChildren(build(tokens));
  }
}
