// Where the service is, and the API key that is shown to it; the key stays in this tab.

const STORED = "tts-api-key";

// What a subprotocol may be made of (RFC 6455): a key of other characters can be shown to nobody.
const KEY = /^[\w!#$%&'*+.^`|~-]*$/;

/** The service wants a key, or another one than it was shown. */
export class KeyWanted extends Error {}

export function key() {
  return sessionStorage.getItem(STORED) ?? "";
}

export function keepKey(value) {
  if (!KEY.test(value)) throw new KeyWanted("This is not an API key: it has characters that no key has.");
  if (value) sessionStorage.setItem(STORED, value);
  else sessionStorage.removeItem(STORED);
}

/** What to tell somebody whom the service has refused. */
export function keyWanted(reason) {
  if (!key()) return new KeyWanted("This service requires an API key: enter yours in the field “API key”.");
  return new KeyWanted(`The service does not accept this API key: ${reason}.`);
}

/** A request to this service. */
export function ask(path, options = {}) {
  const headers = key() ? { authorization: `Bearer ${key()}` } : {};
  return fetch(path, { ...options, headers });
}

/** What it answers, as JSON, and whether that is what was asked for; a proxy in between may answer with anything. */
export async function answerOf(path, options) {
  const answer = await ask(path, options);
  const said = await answer.json().catch(() => ({ message: `The service answered ${answer.status}.` }));
  if (answer.status === 401) throw keyWanted(said.message);
  return { ok: answer.ok, said };
}

/** A socket to this service; a browser's sockets carry no headers, so the key is a subprotocol. */
export function openSocket(path) {
  const url = new URL(path, window.location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  return new WebSocket(url, key() ? ["tts.v1", `tts-key.${key()}`] : []);
}
