// Records the microphone as WAV, without what browsers do to voices on a call.

import { pcm16, wav } from "./wav.js";

export class Recorder {
  /** @param {(seconds: number) => void} onTime how much there is */
  constructor(onTime) {
    this.onTime = onTime;
    this.context = null;
  }

  get isRecording() {
    return this.context !== null;
  }

  async start() {
    if (!navigator.mediaDevices) throw new Error("The browser has a microphone for pages over https, or of this machine, alone.");
    this.parts = [];
    this.count = 0;
    this.stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule(new URL("recorder_worklet.js", import.meta.url));
    const node = new AudioWorkletNode(this.context, "recorder", { channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = ({ data }) => {
      if (!this.isRecording) return;
      this.parts.push(data);
      this.count += data.length;
      this.onTime(this.count / this.context.sampleRate);
    };
    this.context.createMediaStreamSource(this.stream).connect(node);
    node.connect(this.context.destination); // silent; what leads nowhere is not run
  }

  /** @returns {Promise<Blob>} a WAV file */
  async stop() {
    const { context, stream, parts } = this;
    this.context = null;
    for (const track of stream.getTracks()) track.stop();
    await context.close();
    return wav(parts.map(pcm16), "pcm16", context.sampleRate);
  }
}
