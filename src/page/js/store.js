// Conversations live in this browser alone (IndexedDB); the last settings and the theme in localStorage.

const NAME = 'longshore';
const SETTINGS = 'longshore.settings';

let opening = null;

function open() {
  opening ??= new Promise((resolve, reject) => {
    const ask = indexedDB.open(NAME, 1);
    ask.onupgradeneeded = () => ask.result.createObjectStore('conversations', { keyPath: 'id' });
    ask.onsuccess = () => resolve(ask.result);
    ask.onerror = () => reject(ask.error);
  });
  return opening;
}

async function run(mode, work) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction('conversations', mode);
    const result = work(transaction.objectStore('conversations'));
    transaction.oncomplete = () => resolve(result.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

// Other tabs of this page tell each other what they changed.
const channel = 'BroadcastChannel' in self ? new BroadcastChannel(NAME) : null;

export function onOtherTab(callback) {
  channel?.addEventListener('message', (event) => callback(event.data));
}

export const loadAll = () => run('readonly', (store) => store.getAll());
export const load = (id) => run('readonly', (store) => store.get(id));

export async function save(conversation) {
  await run('readwrite', (store) => store.put(conversation));
  channel?.postMessage(conversation.id);
}

export async function remove(id) {
  await run('readwrite', (store) => store.delete(id));
  channel?.postMessage(id);
}

export async function removeAll() {
  await run('readwrite', (store) => store.clear());
  channel?.postMessage('');
}

export function lastSettings() {
  try {
    return JSON.parse(localStorage.getItem(SETTINGS)) ?? {};
  } catch {
    return {};
  }
}

export function keepSettings(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // Forbidden or full: a new conversation then starts with the model's own settings.
  }
}
