// Plays a queue of samples on the audio thread; does not know sockets or the page.
//
// In:  {type: "samples", samples: Float32Array}, {type: "end"} (no more follows: an empty queue is not an underrun),
//      {type: "open"} (more follows), {type: "clear", epoch}, {type: "tap", port} (for tests: receives what is rendered).
// Out: {epoch, played, queued, underruns, drained}; `played` and `queued` are samples.

// Audio to collect before playback starts, so that the next samples arrive in time.
const LEAD_S = 0.1;
const REPORT_EVERY_BLOCKS = 8;

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.lead = Math.round(LEAD_S * sampleRate);
    this.tap = null;
    this.frame = 0; // counted here: `currentFrame` stops while the page holds the graph's lock
    this.clear(0);
    this.port.onmessage = ({ data }) => this.take(data);
  }

  clear(epoch) {
    this.epoch = epoch;
    this.queue = [];
    this.offset = 0; // of the next sample in queue[0]
    this.queued = 0;
    this.played = 0;
    this.waited = 0; // samples of silence since audio arrived
    this.underruns = 0;
    this.playing = false;
    this.isDry = false; // the queue ran empty before the end
    this.ended = false;
    this.blocks = 0;
  }

  take(message) {
    switch (message.type) {
      case "samples":
        this.queue.push(message.samples);
        this.queued += message.samples.length;
        break;
      case "end":
        this.ended = true;
        this.isDry = false;
        if (this.queued === 0) this.report(true);
        break;
      case "open":
        this.ended = false;
        break;
      case "clear":
        this.clear(message.epoch);
        break;
      case "tap":
        this.tap = message.port;
        break;
    }
  }

  process(_inputs, outputs) {
    if (!this.playing && this.queued > 0) {
      this.playing = this.ended || this.queued >= this.lead || this.waited >= this.lead;
      this.waited += outputs[0][0].length;
      if (this.playing && this.isDry) this.underruns += 1;
    }
    if (this.playing) this.play(outputs[0][0]);
    this.frame += outputs[0][0].length;
    return true;
  }

  play(block) {
    let filled = 0;
    while (filled < block.length && this.queue.length > 0) {
      const next = this.queue[0].subarray(this.offset, this.offset + block.length - filled);
      block.set(next, filled);
      filled += next.length;
      this.offset += next.length;
      if (this.offset === this.queue[0].length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    this.queued -= filled;
    this.played += filled;
    this.tap?.postMessage({ frame: this.frame, samples: block.slice(0, filled), queued: this.queued });
    if (filled < block.length) this.ranDry();
    else if (++this.blocks % REPORT_EVERY_BLOCKS === 0) this.report(false);
  }

  ranDry() {
    this.playing = false;
    this.waited = 0;
    this.isDry = !this.ended; // becomes an underrun if more audio follows
    this.report(this.ended);
  }

  report(drained) {
    const { epoch, played, queued, underruns } = this;
    this.port.postMessage({ epoch, played, queued, underruns, drained });
  }
}

registerProcessor("player", Player);
