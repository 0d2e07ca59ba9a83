// Requests to the service and their API key; the key stays in this tab.

const STORED = "tts-api-key";

// Characters of a subprotocol (RFC 6455); a key with others could not be sent.
const KEY = /^[\w!#$%&'*+.^`|~-]*$/;

/** The service requires a key, or refuses this one. */
export class KeyWanted extends Error {}

export function key() {
  return sessionStorage.getItem(STORED) ?? "";
}

export function keepKey(value) {
  if (!KEY.test(value)) throw new KeyWanted("This is not an API key: it has characters that no API key has.");
  if (value) sessionStorage.setItem(STORED, value);
  else sessionStorage.removeItem(STORED);
}

/** The error to show after the service answered 401. */
export function keyWanted(reason) {
  if (!key()) return new KeyWanted("This service requires an API key: enter yours in the field “API key”.");
  return new KeyWanted(`The service does not accept this API key: ${reason}.`);
}

/** Send a request to the service. */
export function ask(path, options = {}) {
  const headers = key() ? { authorization: `Bearer ${key()}` } : {};
  return fetch(path, { ...options, headers });
}

/** The answer's JSON and whether it succeeded. A proxy may answer with something else than JSON. */
export async function answerOf(path, options) {
  const answer = await ask(path, options);
  const said = await answer.json().catch(() => ({ message: `The service answered ${answer.status}.` }));
  if (answer.status === 401) throw keyWanted(said.message);
  return { ok: answer.ok, said };
}

/** Open a socket to the service. Browsers cannot set its headers, so the key is a subprotocol. */
export function openSocket(path) {
  const url = new URL(path, window.location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  return new WebSocket(url, key() ? ["tts.v1", `tts-key.${key()}`] : []);
}
