// The page's frame: the list of conversations, the views, the dialogs, the keys.

import { apiKey, setApiKey, whenKeyIsNeeded } from './api.js';
import { Chat } from './chat.js';
import { warm } from './colour.js';
import { Connection } from './connection.js';
import { Dashboard } from './dashboard.js';
import { announce, h, icon, iconButton, saveFile } from './dom.js';
import { SettingsForm, summary } from './settings.js';
import * as store from './store.js';
import { fromExport, newConversation } from './tree.js';

const $ = (id) => document.getElementById(id);
const conversations = new Map();
const narrow = matchMedia('(max-width: 47.99rem)');
const wide = matchMedia('(min-width: 75rem)');

const EXAMPLES = ['Compute 34 + 6.', 'Sort these numbers: 32 81 54 16', 'Write a haiku about a lighthouse.'];

// ---- what is on the screen

function draw() {
  const put = (id, name, text) => $(id).replaceChildren(icon(name), ...(text ? [h('span', {}, text)] : []));
  put('new-chat', 'plus', 'New conversation');
  put('open-sidebar', 'menu');
  put('close-sidebar', 'close');
  put('close-settings', 'close');
  put('send', 'send');
  for (const [to, name, text] of [['chat', 'chat', 'Chat'], ['both', 'split', 'Both'], ['dashboard', 'gauge', 'Dashboard']]) {
    document.querySelector(`[data-to=${to}]`).replaceChildren(icon(name), h('span', {}, text));
  }
  $('conversation-tools').append(
    iconButton('save', 'Export this conversation', exportOne, { id: 'export' }),
    iconButton('trash', 'Delete this conversation', deleteOne, { id: 'delete' }),
  );
  $('examples').append(...EXAMPLES.map((text) => h('button', { type: 'button', class: 'example', onclick: () => submit(text) }, text)));
}

function list() {
  const wanted = $('search').value.trim().toLowerCase();
  const found = [...conversations.values()]
    .filter((one) => Object.keys(one.nodes).length > 0)
    .filter((one) => !wanted || one.title.toLowerCase().includes(wanted) || Object.values(one.nodes).some((node) => node.content.toLowerCase().includes(wanted)))
    .sort((a, b) => b.updated - a.updated);
  $('conversations').replaceChildren(
    ...found.map((one) =>
      h('li', {},
        h('button', { type: 'button', class: chat.isGenerating(one.id) ? 'busy' : '', 'aria-current': one.id === chat.conversation?.id ? 'page' : null, onclick: () => go(one.id) }, one.title || 'Untitled'))),
  );
}

function showConversation() {
  const { conversation } = chat;
  const empty = Object.keys(conversation.nodes).length === 0;
  $('welcome').hidden = !empty;
  $('chat').classList.toggle('empty', empty);
  $('title').value = conversation.title;
  $('title').placeholder = empty ? 'New conversation' : 'Untitled';
  $('title').disabled = empty;
  for (const button of $('conversation-tools').children) button.disabled = empty;
  document.title = conversation.title ? `${conversation.title} · longshore` : 'longshore';
  showChips();
}

function showChips() {
  const { settings } = chat.conversation;
  const { tools, broken, sampling, system } = summary(settings);
  const thinking = { on: 'Thinking on', off: 'Thinking off' }[settings.thinking] ?? 'Thinking: model’s';
  $('chip-thinking').textContent = thinking;
  $('chip-thinking').setAttribute('aria-pressed', String(settings.thinking === 'on'));
  const parts = [system && 'system prompt', broken ? 'tools broken' : tools > 0 && `${tools} tool${tools > 1 ? 's' : ''}`, sampling > 0 && `${sampling} set`].filter(Boolean);
  $('open-settings').replaceChildren(icon('gear'), h('span', {}, parts.length > 0 ? `Settings: ${parts.join(', ')}` : 'Settings'));
  $('open-settings').setAttribute('aria-label', parts.length > 0 ? `Settings: ${parts.join(', ')}` : 'Settings');
}

function setBusy(busy) {
  $('send').replaceChildren(icon(busy ? 'stop' : 'send'));
  $('send').setAttribute('aria-label', busy ? 'Stop' : 'Send');
  $('send').classList.toggle('stop', busy);
  list();
}

function problem(text) {
  $('composer-problem').textContent = text;
}

// ---- conversations

const chat = new Chat($('thread'), {
  modelName: () => connection.model?.id ?? 'model',
  changed: (conversation) => {
    conversations.set(conversation.id, conversation);
    if (conversation === chat.conversation) showConversation();
    list();
  },
  busy: setBusy,
  waiting: (calls) => {
    $('prompt').disabled = calls > 0;
    $('prompt').placeholder = calls > 0 ? 'The model waits for the result above' : 'Message';
  },
  failed: () => connection.look(),
  problem,
});

function startNew() {
  const used = chat.conversation;
  if (used && Object.keys(used.nodes).length === 0) return go('');
  open(newConversation(structuredClone(store.lastSettings())));
  go('');
}

function open(conversation) {
  problem('');
  chat.open(conversation);
  form.bind(chat.conversation.settings, () => {
    store.keepSettings(chat.conversation.settings);
    if (Object.keys(chat.conversation.nodes).length > 0) save(chat.conversation);
    showChips();
  });
  showConversation();
  list();
}

function save(conversation) {
  store.save(conversation).catch((error) => problem(`This browser does not keep the conversation: ${error?.message ?? 'storage refused'}`));
}

function submit(text) {
  if (text.trim() === '' || chat.busy) return;
  problem('');
  $('prompt').value = '';
  fit();
  chat.send(text);
  const view = document.body.dataset.view === 'both' ? 'both' : 'c';
  const address = `#/${view}/${chat.conversation.id}`;
  if (location.hash !== address) history.pushState(null, '', address);
  list();
}

function exportOne() {
  const { conversation } = chat;
  const name = (conversation.title || 'conversation').replace(/[^\p{L}\p{N}]+/gu, '-').slice(0, 40);
  saveFile(`${name}.json`, JSON.stringify({ format: 'longshore conversation', ...conversation }, null, 2));
}

async function confirm(text, yes = 'Delete') {
  const dialog = $('confirm');
  $('confirm-text').textContent = text;
  $('confirm-yes').textContent = yes;
  dialog.returnValue = '';
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener('close', resolve, { once: true }));
  return dialog.returnValue === 'yes';
}

async function deleteOne() {
  const { conversation } = chat;
  if (!(await confirm(`Delete “${conversation.title || 'Untitled'}” with all its versions?`))) return;
  await chat.end([conversation.id]);
  conversations.delete(conversation.id);
  await store.remove(conversation.id);
  open(newConversation(structuredClone(store.lastSettings())));
  go('');
  announce('Deleted');
}

async function importFile(file) {
  try {
    const data = JSON.parse(await file.text());
    const imported = (Array.isArray(data) ? data : [data]).map(fromExport);
    for (const conversation of imported) {
      conversations.set(conversation.id, conversation);
      await store.save(conversation);
    }
    $('settings').close();
    if (imported.length > 0) go(imported[0].id);
    list();
  } catch (error) {
    $('settings').close();
    problem(`${file.name}: ${error.message}`);
  }
}

// ---- where we are: #/c/ID, #/dashboard, #/both/ID

function go(id) {
  closeSidebar();
  const view = document.body.dataset.view === 'both' ? 'both' : 'c';
  const address = `#/${view}/${id}`;
  if (location.hash === address) return route();
  location.hash = address;
}

function route() {
  const [, view = '', id = ''] = location.hash.split('/');
  const shown = view === 'dashboard' ? 'dashboard' : view === 'both' && wide.matches ? 'both' : 'chat';
  document.body.dataset.view = shown;
  for (const button of document.querySelectorAll('.switch button')) button.setAttribute('aria-pressed', String(button.dataset.to === shown));
  dashboard.look(shown !== 'chat');
  if (conversations.has(id) && chat.conversation?.id !== id) open(conversations.get(id));
  if (id === '' && view !== 'dashboard' && Object.keys(chat.conversation.nodes).length > 0) open(newConversation(structuredClone(store.lastSettings())));
  if (shown !== 'dashboard' && !narrow.matches) $('prompt').focus();
}

function show(view) {
  const { conversation } = chat;
  const id = Object.keys(conversation.nodes).length > 0 ? conversation.id : '';
  location.hash = view === 'dashboard' ? `#/dashboard/${id}` : `#/${view === 'both' ? 'both' : 'c'}/${id}`;
}

// ---- the server comes and goes

let bannerTimer = 0;

function banner(text, kind, seconds = 0) {
  clearTimeout(bannerTimer);
  const element = $('banner');
  element.hidden = text === '';
  element.className = kind;
  element.replaceChildren(h('span', {}, text), iconButton('close', 'Close this notice', () => (element.hidden = true)));
  if (seconds > 0) bannerTimer = setTimeout(() => (element.hidden = true), seconds * 1000);
}

const connection = new Connection((state, { before, restarted, model }) => {
  document.body.dataset.server = state;
  if (model) {
    $('welcome-title').textContent = model.id;
    $('welcome-text').textContent = `Up to ${model.max_model_len.toLocaleString('en')} tokens of conversation. Nothing leaves this server and this browser.`;
  }
  if (state === 'lost') banner('The server cannot be reached. Conversations are kept in this browser; the page tries again every second.', 'bad');
  else if (state === 'draining') banner('The server is shutting down: it finishes what runs and takes nothing new.', 'bad');
  else if (state === 'failed') banner('The server’s device has failed: it must be started again.', 'bad');
  else if (restarted) banner('The server was restarted. Conversations are kept; an answer that was cut off can be regenerated.', 'good', 20);
  else if (before !== null && before !== 'ok') banner('The server is back.', 'good', 8);
});

// ---- dialogs

const form = new SettingsForm($('settings-form'));
const dashboard = new Dashboard($('dashboard'), () => connection.look());

function askKey() {
  const dialog = $('ask-key');
  $('key').value = '';
  $('key-problem').textContent = apiKey() ? 'The key that was given is not the server’s.' : '';
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener('close', () => {
      const given = dialog.returnValue === 'ok' && $('key').value !== '';
      if (given) setApiKey($('key').value, $('remember').checked);
      resolve(given);
    }, { once: true }),
  );
}

function openSettings() {
  $('theme').value = document.documentElement.dataset.theme ?? '';
  $('api-key').value = apiKey();
  $('settings').showModal();
  $('settings').scrollTop = 0;
}

function closeSidebar() {
  document.body.classList.remove('sidebar-open');
  $('open-sidebar').setAttribute('aria-expanded', 'false');
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  try {
    localStorage.setItem('longshore.theme', theme);
  } catch {
    // Forbidden storage: for this visit alone, then.
  }
}

// The message box grows with its text where the browser does not do it by itself.
function fit() {
  if (CSS.supports('field-sizing', 'content')) return;
  const prompt = $('prompt');
  prompt.style.height = 'auto';
  prompt.style.height = `${Math.min(prompt.scrollHeight, innerHeight / 3)}px`;
}

// ---- events

function listen() {
  $('composer').addEventListener('submit', (event) => {
    event.preventDefault();
    if (chat.busy) chat.stop();
    else submit($('prompt').value);
  });
  $('prompt').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit($('prompt').value);
  });
  $('prompt').addEventListener('input', fit);
  $('chip-thinking').addEventListener('click', () => {
    const { settings } = chat.conversation;
    const next = { '': 'on', on: 'off', off: '' }[settings.thinking ?? ''];
    if (next) settings.thinking = next;
    else delete settings.thinking;
    store.keepSettings(settings);
    if (Object.keys(chat.conversation.nodes).length > 0) save(chat.conversation);
    open(chat.conversation);
  });
  $('new-chat').addEventListener('click', startNew);
  $('search').addEventListener('input', list);
  $('title').addEventListener('change', () => {
    chat.conversation.title = $('title').value.trim();
    save(chat.conversation);
    showConversation();
    list();
  });
  $('title').addEventListener('keydown', (event) => event.key === 'Enter' && $('prompt').focus());
  $('open-settings').addEventListener('click', openSettings);
  $('close-settings').addEventListener('click', () => $('settings').close());
  for (const dialog of document.querySelectorAll('dialog')) {
    dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
  }
  $('key-cancel').addEventListener('click', () => $('ask-key').close());
  $('theme').addEventListener('change', () => setTheme($('theme').value));
  $('api-key').addEventListener('change', () => {
    setApiKey($('api-key').value, false);
    connection.look();
  });
  $('page-form').addEventListener('submit', (event) => event.preventDefault());
  $('export-all').addEventListener('click', () => saveFile('longshore-conversations.json', JSON.stringify([...conversations.values()], null, 2)));
  $('import').addEventListener('click', () => $('import-file').click());
  $('import-file').addEventListener('change', () => {
    if ($('import-file').files.length > 0) importFile($('import-file').files[0]);
    $('import-file').value = '';
  });
  $('delete-all').addEventListener('click', async () => {
    if (!(await confirm('Delete every conversation kept in this browser?', 'Delete all'))) return;
    await chat.end([...conversations.keys()]);
    conversations.clear();
    await store.removeAll();
    $('settings').close();
    open(newConversation(structuredClone(store.lastSettings())));
    go('');
  });
  $('open-sidebar').addEventListener('click', () => {
    document.body.classList.add('sidebar-open');
    $('open-sidebar').setAttribute('aria-expanded', 'true');
    $('close-sidebar').focus();
  });
  $('close-sidebar').addEventListener('click', () => {
    closeSidebar();
    $('open-sidebar').focus();
  });
  $('scrim').addEventListener('click', closeSidebar);
  $('skip').addEventListener('click', () => $('prompt').focus());
  for (const button of document.querySelectorAll('.switch button')) button.addEventListener('click', () => show(button.dataset.to));
  wide.addEventListener('change', route);
  addEventListener('hashchange', route);
  addEventListener('popstate', route);
  addEventListener('pagehide', () => chat.busy && store.save(chat.conversation).catch(() => {}));
  document.addEventListener('keydown', keys);
}

function keys(event) {
  if (document.querySelector('dialog[open]')) return;
  if (event.key === 'Escape') {
    if (document.body.classList.contains('sidebar-open')) closeSidebar();
    else if (chat.busy) chat.stop();
    return;
  }
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === '/' && !typing) {
    event.preventDefault();
    $('prompt').focus();
  }
  if (!event.altKey || event.ctrlKey || event.metaKey) return;
  const action = { KeyN: startNew, KeyS: openSettings, Digit1: () => show('chat'), Digit2: () => show('both'), Digit3: () => show('dashboard') }[event.code];
  if (!action) return;
  event.preventDefault();
  action();
}

async function start() {
  draw();
  open(newConversation(structuredClone(store.lastSettings())));
  listen();
  whenKeyIsNeeded(askKey);
  connection.look();
  try {
    for (const conversation of await store.loadAll()) conversations.set(conversation.id, conversation);
  } catch (error) {
    problem(`This browser keeps no conversations: ${error?.message ?? 'its storage is forbidden'}`);
  }
  store.onOtherTab(async (id) => {
    if (id === '' || chat.isGenerating(id)) return;
    const changed = await store.load(id);
    if (changed) conversations.set(id, changed);
    else conversations.delete(id);
    if (changed && chat.conversation.id === id) open(changed);
    list();
  });
  list();
  route();
  document.body.dataset.ready = 'true';
  warm();
}

start();
