// Where the service is, and the API key that is shown to it; the key stays in this tab.

const STORED = "tts-api-key";

export function key() {
  return sessionStorage.getItem(STORED) ?? "";
}

export function keepKey(value) {
  if (value) sessionStorage.setItem(STORED, value);
  else sessionStorage.removeItem(STORED);
}

/** A request to this service. */
export function ask(path, options = {}) {
  const headers = key() ? { authorization: `Bearer ${key()}` } : {};
  return fetch(path, { ...options, headers });
}

/** A socket to this service; a browser's sockets carry no headers, so the key is a subprotocol. */
export function openSocket(path) {
  const url = new URL(path, window.location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  try {
    return new WebSocket(url, key() ? ["tts.v1", `tts-key.${key()}`] : []);
  } catch {
    throw new Error("That is no API key: it has characters that none has.");
  }
}
