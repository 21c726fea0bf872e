// Whether the server is there, and whether it is still the same one.

import { models, request } from './api.js';

const CALM = 4000; // ms between looks while all is well
const EAGER = 1000; // while it is not

// states: 'ok', 'draining', 'failed', 'lost'. changed(state, { restarted, model }) on every change.
export class Connection {
  #state = null;
  #started = 0; // when the server says it was started
  #timer = 0;
  #asking = false;
  #askedForKey = false;
  model = null;

  constructor(changed) {
    this.changed = changed;
    document.addEventListener('visibilitychange', () => this.look());
    addEventListener('online', () => this.look());
  }

  // Somebody has reason to doubt it, or it is time again.
  async look() {
    if (this.#asking) return;
    this.#asking = true;
    clearTimeout(this.#timer);
    const state = await this.#ask();
    this.#asking = false;
    await this.#enter(state);
    if (!document.hidden) this.#timer = setTimeout(() => this.look(), this.#state === 'ok' ? CALM : EAGER);
  }

  async #ask() {
    try {
      await request('health', {}, true);
      return 'ok';
    } catch (error) {
      if (error.status !== 503) return 'lost';
      return error.body?.status === 'failed' ? 'failed' : 'draining';
    }
  }

  async #enter(state) {
    let restarted = false;
    if (state === 'ok' && (this.#state !== 'ok' || this.model === null)) {
      try {
        const quiet = this.#askedForKey;
        this.#askedForKey = true; // once; after that whoever sends a message is asked
        const model = await models(quiet);
        restarted = this.#started !== 0 && model.created !== this.#started;
        this.#started = model.created;
        this.model = model;
      } catch {
        // Without the key there is no name: asked again with the next look.
      }
    }
    if (state === this.#state && !restarted) return;
    const before = this.#state;
    this.#state = state;
    this.changed(state, { before, restarted, model: this.model });
  }
}
