// The server, as it answers every client. All addresses are relative to the page's, so that both may lie below a path.

import { EventParser } from './sse.js';

// kind: 'unreachable' (no answer), 'cut' (an answer that broke off), 'key' (401), 'server' (it said no).
export class Failure extends Error {
  constructor(kind, message, status = 0, body = null) {
    super(message);
    this.kind = kind;
    this.status = status;
    this.body = body;
  }
}

const KEY = 'longshore.key';

export function apiKey() {
  try {
    return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? '';
  } catch {
    return '';
  }
}

// remember: beyond this tab.
export function setApiKey(key, remember) {
  try {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
    if (key) (remember ? localStorage : sessionStorage).setItem(KEY, key);
  } catch {
    // Forbidden storage: the key is asked for again.
  }
}

let askForKey = null; // () => Promise<boolean>: a key was given
let asking = null;

export function whenKeyIsNeeded(ask) {
  askForKey = ask;
}

async function send(path, options) {
  const headers = { ...options.headers };
  const key = apiKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  try {
    return await fetch(path, { ...options, headers, cache: 'no-store' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure('unreachable', 'The server cannot be reached.');
  }
}

// The answer, or a Failure. quiet: nobody is asked for the key.
export async function request(path, options = {}, quiet = false) {
  let response = await send(path, options);
  while (response.status === 401 && !quiet && askForKey) {
    asking ??= askForKey().finally(() => (asking = null));
    if (!(await asking)) break;
    response = await send(path, options);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `The server answered ${response.status}.`;
  throw new Failure(response.status === 401 ? 'key' : 'server', message, response.status, body);
}

export async function models(quiet = false) {
  const answer = await (await request('v1/models', {}, quiet)).json();
  return answer.data[0];
}

// Streams an answer: on(chunk) for every chunk of the completion. Ends when all is there; a Failure otherwise.
export async function streamChat(body, signal, on) {
  const response = await request('v1/chat/completions', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new Failure('cut', 'The connection broke off before the answer was complete.');
    }
    for (const data of parser.feed(decoder.decode(piece.value, { stream: !piece.done }))) {
      if (data === '[DONE]') return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Failure('server', chunk.error.message ?? 'The server failed.', 500);
      on(chunk);
    }
    if (piece.done) throw new Failure('cut', 'The connection ended before the answer was complete.');
  }
}
