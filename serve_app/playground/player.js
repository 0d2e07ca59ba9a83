// Passes samples to the audio thread and reports what was played; does not know the protocol.

export const SAMPLE_RATE_HZ = 24000;

/** @typedef {{epoch: number, played: number, queued: number, underruns: number, drained: boolean}} Report */

export class Player {
  /** @param {(report: Report) => void} onReport covers samples fed since the last `clear` */
  constructor(onReport) {
    this.onReport = onReport;
    this.context = null;
    this.opening = null;
    this.node = null;
    this.epoch = 0;
  }

  /** Call this from a user gesture, or the browser blocks audio. */
  async open() {
    this.context ??= new AudioContext({ sampleRate: SAMPLE_RATE_HZ });
    if (!this.context.audioWorklet) {
      throw new Error("Browsers play this audio only for pages over https or from this machine.");
    }
    const resumed = this.context.resume();
    this.opening ??= this.load();
    await Promise.all([resumed, this.opening]);
  }

  async load() {
    await this.context.audioWorklet.addModule(new URL("player_worklet.js", import.meta.url));
    this.node = new AudioWorkletNode(this.context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    this.node.port.onmessage = ({ data }) => data.epoch === this.epoch && this.onReport(data);
    this.clear();
    this.node.connect(this.context.destination);
  }

  /** @param {Float32Array} samples are transferred: the caller can no longer use them */
  feed(samples) {
    this.node.port.postMessage({ type: "samples", samples }, [samples.buffer]);
  }

  /** No more audio is expected now: an empty queue is not an underrun. */
  end() {
    this.node?.port.postMessage({ type: "end" });
  }

  /** More audio is expected. */
  expect() {
    this.node?.port.postMessage({ type: "open" });
  }

  /** Stop playback at once and count from zero. */
  clear() {
    this.epoch += 1;
    this.node?.port.postMessage({ type: "clear", epoch: this.epoch });
  }
}
