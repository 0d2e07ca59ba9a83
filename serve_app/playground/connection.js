// One socket of dialect B (docs/protocol.md): opened when it is needed. Joins each payload to its `audio_chunk`.

import { openSocket } from "./access.js";

export class Connection {
  /**
   * @param {(message: object, audio: ArrayBuffer | null) => void} onMessage audio: an `audio_chunk`'s payload
   * @param {(event: CloseEvent) => void} onClose
   */
  constructor(onMessage, onClose) {
    this.onMessage = onMessage;
    this.onClose = onClose;
    this.socket = null;
    this.opening = null;
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  /** Open the socket if it is not open; rejects with the reason. */
  async open() {
    if (this.isOpen) return;
    this.opening ??= this.connect().finally(() => (this.opening = null));
    await this.opening;
  }

  connect() {
    const socket = openSocket("api/v1/speak");
    let announced = null;
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => {
      if (this.socket !== socket) return;
      const message = typeof data === "string" ? JSON.parse(data) : announced;
      announced = message.type === "audio_chunk" && typeof data === "string" ? message : null;
      if (!announced) this.onMessage(message, typeof data === "string" ? null : data);
    };
    socket.onclose = (event) => this.socket === socket && this.onClose(event);
    this.socket = socket;
    return new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = () => reject(new Error("The server cannot be reached, or accepts no more connections."));
    });
  }

  send(message) {
    if (this.isOpen) this.socket.send(JSON.stringify(message));
  }

  /** Close this socket; the next one is opened with the new key. */
  drop() {
    const { socket } = this;
    this.socket = null;
    socket?.close();
  }
}
