// Model text to elements, while it comes. Markdown is read by marked, code by Prism; both only take text apart.
//
// Nothing that a model writes is ever markup: elements are made one by one from the tokens, from the fixed list below, and
// what stands between is text. HTML in the text is text, links are http, https or mailto, pictures are links (a picture from
// elsewhere would tell a stranger what is being read). The page's Content-Security-Policy holds it to that: its trusted types
// are none, so a string that became HTML anywhere would be an exception.

import { marked } from './marked.js';
import { copyButton, h } from './dom.js';
import { colour } from './colour.js';

const SAFE_URL = /^(?:https?:|mailto:)/i;

marked.use({
  mangle: false,
  headerIds: false,
  // No HTML tokens: "<b>" is three letters like any others.
  tokenizer: {
    html() {},
    tag() {},
  },
});

// marked escapes what it hands out for HTML; besides, people write these in Markdown.
const ENTITIES = {
  amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0', copy: '©', reg: '®', deg: '°', times: '×', divide: '÷', plusmn: '±',
  hellip: '…', mdash: '—', ndash: '–', larr: '←', rarr: '→', uarr: '↑', darr: '↓', le: '≤', ge: '≥', ne: '≠', middot: '·', bull: '•', euro: '€',
};

function plain(text) {
  return text.replace(/&(?:#(\d{1,7})|#x([0-9a-f]{1,6})|(\w{2,8}));/gi, (whole, decimal, hex, name) => {
    if (name) return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : whole;
    const point = decimal ? Number(decimal) : parseInt(hex, 16);
    return point > 0 && point <= 0x10ffff ? String.fromCodePoint(point) : '\ufffd';
  });
}

function link(href, children) {
  if (!SAFE_URL.test(href)) return children;
  return [h('a', { href, target: '_blank', rel: 'noopener noreferrer nofollow' }, children)];
}

// Tokens within a line.
const INLINE = {
  text: (token) => (token.tokens ? inline(token.tokens) : [plain(token.text)]),
  escape: (token) => [plain(token.text)],
  strong: (token) => [h('strong', {}, inline(token.tokens))],
  em: (token) => [h('em', {}, inline(token.tokens))],
  del: (token) => [h('del', {}, inline(token.tokens))],
  codespan: (token) => [h('code', {}, plain(token.text))],
  br: () => [h('br')],
  link: (token) => link(plain(token.href), inline(token.tokens)),
  image: (token) => link(plain(token.href), [plain(token.text) || plain(token.href)]),
};

const inline = (tokens) => tokens.flatMap((token) => (INLINE[token.type] ? INLINE[token.type](token) : [token.raw]));

function listItem(item) {
  const box = item.task ? [item.checked ? '☑ ' : '☐ '] : [];
  // Of a tight list the items' texts are no paragraphs.
  return h('li', {}, box, item.tokens.flatMap((token) => (token.type === 'text' ? [...INLINE.text(token), item.loose ? h('br') : '\n'] : blocks([token]))));
}

function table(token) {
  const row = (tag, cells) => h('tr', {}, cells.map((cell, i) => h(tag, { align: token.align[i] }, inline(cell.tokens))));
  return h('div', { class: 'table', tabindex: '0', role: 'region', 'aria-label': 'Table' },
    h('table', {}, h('thead', {}, row('th', token.header)), h('tbody', {}, token.rows.map((cells) => row('td', cells)))));
}

const BLOCKS = {
  space: () => [],
  def: () => [],
  paragraph: (token) => [h('p', {}, inline(token.tokens))],
  text: (token) => [h('p', {}, INLINE.text(token))],
  heading: (token) => [h(`h${token.depth}`, {}, inline(token.tokens))],
  hr: () => [h('hr')],
  blockquote: (token) => [h('blockquote', {}, blocks(token.tokens))],
  list: (token) => [h(token.ordered ? 'ol' : 'ul', { start: token.ordered && token.start !== 1 ? token.start : null }, token.items.map(listItem))],
  table: (token) => [table(token)],
  code: (token) => {
    const block = codeBlock((token.lang ?? '').split(/\s/)[0], token.text);
    block.finish();
    return [block.element];
  },
};

const blocks = (tokens) => tokens.flatMap((token) => (BLOCKS[token.type] ? BLOCKS[token.type](token) : [h('p', {}, token.raw)]));

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
    if (this.#prose.trim() !== '') this.#live.before(...blocks(marked.lexer(this.#prose)));
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
        this.#live.before(...blocks(done));
        this.#prose = source.slice(length, source.length - held.length);
        this.#live.replaceChildren(...blocks(tokens.slice(last)));
        return;
      }
    }
    this.#live.replaceChildren(...blocks(tokens));
  }
}
