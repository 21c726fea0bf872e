// Elements without markup: h('button', { class: 'x', onclick: f }, 'text', child).

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) {
      element.removeAttribute(name);
    } else if (name.startsWith('on')) {
      element.addEventListener(name.slice(2), value);
    } else if (name === 'value' || name === 'checked' || name === 'open') {
      element[name] = value;
    } else {
      element.setAttribute(name, value === true ? '' : value);
    }
  }
}

const SVG = 'http://www.w3.org/2000/svg';

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Stroked 24 x 24 drawings.
const ICONS = {
  plus: 'M12 5v14M5 12h14',
  send: 'M12 19V5M5 12l7-7 7 7',
  stop: 'M7 7h10v10H7z',
  copy: 'M9 9h11v11H9zM5 15H4V4h11v1',
  check: 'M5 12l5 5L20 7',
  retry: 'M4 12a8 8 0 1 0 2.5-5.8M4 4v5h5',
  edit: 'M4 20h4L19 9l-4-4L4 16z',
  left: 'M14 6l-6 6 6 6',
  right: 'M10 6l6 6-6 6',
  trash: 'M5 7h14M10 11v6M14 11v6M7 7l1 13h8l1-13M9 7V4h6v3',
  save: 'M12 4v11M7 11l5 5 5-5M5 20h14',
  menu: 'M4 7h16M4 12h16M4 17h16',
  close: 'M6 6l12 12M18 6L6 18',
  gear: 'M4 7h9M17 7h3M13 5v4M4 17h3M11 17h9M9 15v4',
  chat: 'M4 5h16v11H9l-5 4z',
  gauge: 'M4 18a8 8 0 1 1 16 0M12 18l4-6',
  split: 'M4 5h16v14H4zM13 5v14',
  tool: 'M14 6a4 4 0 0 0 5 5l-8 8-4-4 8-8M14 6l3-2 3 3-1 4',
  down: 'M12 5v14M5 12l7 7 7-7',
};

export function icon(name) {
  return svg('svg', { viewBox: '0 0 24 24', class: 'icon', 'aria-hidden': 'true' }, svg('path', { d: ICONS[name] }));
}

// A button of an icon alone: the label is its name and its tooltip.
export function iconButton(name, label, onclick, extra = {}) {
  return h('button', { type: 'button', class: 'icon-button', 'aria-label': label, title: label, onclick, ...extra }, icon(name));
}

// Not everywhere is there a clipboard: only in secure contexts, which a plain address of the local network is not.
export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Refused: the old way may still work.
    }
  }
  const area = h('textarea', { class: 'visually-hidden', value: text });
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  focused?.focus();
  return done;
}

export function copyButton(label, text) {
  const button = iconButton('copy', label, async () => {
    const done = await copyText(text());
    button.replaceChildren(icon(done ? 'check' : 'close'));
    announce(done ? 'Copied' : 'The browser refused to copy');
    setTimeout(() => button.replaceChildren(icon('copy')), 1500);
  });
  return button;
}

// For screen readers: what happened, without moving the focus.
export function announce(text) {
  document.getElementById('announcer').textContent = text;
}

export function saveFile(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
  h('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
