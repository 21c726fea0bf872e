// Colours of code by Prism. Tokens become elements directly, never markup.

const MOST = 100_000; // letters: more stays plain
const NAMES = { 'c++': 'cpp', h: 'cpp', hpp: 'cpp', cc: 'cpp', 'c#': 'csharp', sh: 'bash', zsh: 'bash', console: 'bash', golang: 'go', rs: 'rust', rb: 'ruby', ps1: 'powershell', jsonc: 'json', cu: 'cpp', cuda: 'cpp', patch: 'diff', text: '', plaintext: '' };

let loading = null;

const load = () => (loading ??= import('./prism.js').then((module) => module.default).catch(() => null));

// Before there is any code, when the page has nothing to do: evaluating it takes longer than a frame may.
export function warm() {
  if ('requestIdleCallback' in self) requestIdleCallback(load);
}

export async function colour(code, language) {
  const name = Object.hasOwn(NAMES, language) ? NAMES[language] : language;
  const text = code.textContent;
  if (!name || text.length > MOST) return;
  const Prism = await load();
  const grammar = Prism && Object.hasOwn(Prism.languages, name) ? Prism.languages[name] : null;
  if (!grammar || typeof grammar === 'function') return;
  code.replaceChildren(...elements(Prism.tokenize(text, grammar)));
}

function elements(tokens) {
  const list = Array.isArray(tokens) ? tokens : [tokens];
  return list.map((token) => {
    if (typeof token === 'string') return document.createTextNode(token);
    const span = document.createElement('span');
    span.className = `t ${token.type}`;
    span.append(...elements(token.content));
    return span;
  });
}
