// A conversation is a tree of messages: an edit or another answer is a sibling, and what was said before stays.
//
// conversation: { id, title, created, updated, settings, nodes: { id: node }, chosen: { parent: child } }
// node: { id, parent, role, content, reasoning, thinkingMs, calls: [{ id, name, arguments }], callId, finish, usage,
//         timing, error, created }. parent of the first is ''. Plain data: it goes into the browser's storage as it is.

export function newConversation(settings = {}) {
  const now = Date.now();
  return { id: newId(), title: '', created: now, updated: now, settings, nodes: {}, chosen: {} };
}

export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, '0')).join('');
}

export function children(conversation, parent) {
  return Object.values(conversation.nodes).filter((node) => node.parent === parent);
}

// Adds a message below `parent` and makes it the shown one.
export function add(conversation, parent, fields) {
  const node = { id: newId(), parent, content: '', created: Date.now(), ...fields };
  conversation.nodes[node.id] = node;
  conversation.chosen[parent] = node.id;
  conversation.updated = node.created;
  if (!conversation.title && node.role === 'user') conversation.title = titleOf(node.content);
  return node;
}

export function titleOf(text) {
  const line = text.trim().split('\n')[0];
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

// The shown messages, from the first to the last.
export function path(conversation) {
  const byParent = new Map();
  for (const node of Object.values(conversation.nodes)) {
    if (!byParent.has(node.parent)) byParent.set(node.parent, []);
    byParent.get(node.parent).push(node);
  }
  const nodes = [];
  for (let parent = ''; byParent.has(parent); parent = nodes.at(-1).id) {
    const siblings = byParent.get(parent);
    nodes.push(siblings.find((node) => node.id === conversation.chosen[parent]) ?? siblings.at(-1));
  }
  return nodes;
}

// Where a message stands among those of the same parent: { index, ids }.
export function siblings(conversation, node) {
  const ids = children(conversation, node.parent).map((sibling) => sibling.id);
  return { index: ids.indexOf(node.id), ids };
}

export function choose(conversation, id) {
  conversation.chosen[conversation.nodes[id].parent] = id;
}

const isWhole = (call) => {
  try {
    JSON.parse(call.arguments || '{}');
    return true;
  } catch {
    return false; // the answer was cut in the middle of it
  }
};

// The calls of the last shown message that have no result yet.
export function openCalls(conversation) {
  const shown = path(conversation);
  const answered = new Set();
  for (let i = shown.length - 1; i >= 0; --i) {
    if (shown[i].role === 'tool') {
      answered.add(shown[i].callId);
    } else {
      return (shown[i].calls ?? []).filter((call) => isWhole(call) && !answered.has(call.id));
    }
  }
  return [];
}

// The `messages` of a request: the system prompt and the given path.
export function toMessages(nodes, systemPrompt) {
  const messages = systemPrompt?.trim() ? [{ role: 'system', content: systemPrompt }] : [];
  for (const node of nodes) {
    if (node.role === 'tool') {
      messages.push({ role: 'tool', tool_call_id: node.callId, content: node.content });
      continue;
    }
    const message = { role: node.role, content: node.content };
    if (node.reasoning) message.reasoning_content = node.reasoning;
    const calls = (node.calls ?? []).filter(isWhole);
    if (calls.length > 0) {
      message.tool_calls = calls.map((call) => ({
        id: call.id,
        type: 'function',
        function: { name: call.name, arguments: call.arguments || '{}' },
      }));
    }
    messages.push(message);
  }
  return messages;
}

// A conversation from a file, or an Error that says what is wrong with it. Nothing of it is trusted but plain data.
export function fromExport(data) {
  const text = (value) => typeof value === 'string';
  if (data === null || typeof data !== 'object' || typeof data.nodes !== 'object' || data.nodes === null) {
    throw new Error('no conversation of this page: it has no messages');
  }
  const conversation = newConversation(typeof data.settings === 'object' && data.settings !== null ? data.settings : {});
  conversation.title = text(data.title) ? data.title.slice(0, 200) : 'Imported';
  for (const [id, node] of Object.entries(data.nodes)) {
    if (node?.id !== id || !text(node.parent) || !text(node.content) || !['user', 'assistant', 'tool'].includes(node.role)) {
      throw new Error(`message ${id} has no role, parent or content`);
    }
    if (node.parent !== '' && !Object.hasOwn(data.nodes, node.parent)) throw new Error(`message ${id} hangs on one that is not there`);
    const calls = Array.isArray(node.calls) ? node.calls : [];
    if (!calls.every((call) => text(call?.id) && text(call.name) && text(call.arguments))) throw new Error(`message ${id} has a broken call`);
    conversation.nodes[id] = { ...structuredClone(node), calls };
  }
  for (const [parent, child] of Object.entries(data.chosen ?? {})) {
    if (conversation.nodes[child]?.parent === parent) conversation.chosen[parent] = child;
  }
  return conversation;
}
