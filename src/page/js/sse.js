// Server-sent events out of a text that comes in pieces, cut anywhere (HTML standard, 9.2.6).
// Only the data is of interest: comments, names and ids are skipped.

export class EventParser {
  #line = '';
  #data = null;
  #sawReturn = false;

  // The data of every event that this piece completes.
  feed(piece) {
    const events = [];
    let begin = 0;
    // "\r\n" may be cut in two.
    if (this.#sawReturn && piece.startsWith('\n')) begin = 1;
    if (piece !== '') this.#sawReturn = false;
    for (let at = begin; at < piece.length; ++at) {
      const letter = piece[at];
      if (letter !== '\n' && letter !== '\r') continue;
      this.#take(this.#line + piece.slice(begin, at), events);
      this.#line = '';
      if (letter === '\r') {
        if (at + 1 === piece.length) this.#sawReturn = true;
        if (piece[at + 1] === '\n') ++at;
      }
      begin = at + 1;
    }
    this.#line += piece.slice(begin);
    return events;
  }

  #take(line, events) {
    if (line === '') {
      if (this.#data !== null) events.push(this.#data);
      this.#data = null;
      return;
    }
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    if (field !== 'data') return;
    let value = colon < 0 ? '' : line.slice(colon + 1);
    if (value.startsWith(' ')) value = value.slice(1);
    this.#data = this.#data === null ? value : `${this.#data}\n${value}`;
  }
}
