"""Speaks sentences with a checkpoint, using upstream's own ``generate_voice_clone``.

python -m training.say CHECKPOINT DIRECTORY: writes a recording of each line of training/held_out.txt, and texts.json
for training.listen. The reference is a clip with its transcript, or the clip alone with --x-vector.
"""

import argparse
import json
import time
from pathlib import Path

import soundfile
import torch
from qwen_tts import Qwen3TTSModel

from training.recordings import write_wave


def main() -> None:
    """Speak the texts and write the recordings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--texts", type=Path, default=Path(__file__).with_name("held_out.txt"))
    parser.add_argument("--count", type=int, help="number of texts; default: all")
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--transcript")
    parser.add_argument("--x-vector", action="store_true", help="use only the clip's speaker embedding")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = Qwen3TTSModel.from_pretrained(str(options.checkpoint), dtype=torch.float32)
    samples, rate_hz = soundfile.read(options.clip, dtype="float32")
    voice = model.create_voice_clone_prompt(
        ref_audio=(samples, rate_hz), ref_text=options.transcript, x_vector_only_mode=options.x_vector
    )
    directory: Path = options.directory
    directory.mkdir(parents=True, exist_ok=True)
    texts = options.texts.read_text(encoding="utf-8").splitlines()[: options.count]
    for number, text in enumerate(texts):
        began_s = time.monotonic()
        limit = 25 + 2 * len(text)  # frames; speech takes about one per character
        made, _ = model.generate_voice_clone(
            text=text, language="english", voice_clone_prompt=voice, max_new_tokens=limit
        )
        write_wave(directory / f"{number:03}.wav", made[0])
        print(
            f"{number:03} {len(made[0]) / 24000:.1f} s of speech in {time.monotonic() - began_s:.1f} s: {text}",
            flush=True,
        )
    listing = {f"{number:03}": text for number, text in enumerate(texts)}
    (directory / "texts.json").write_text(json.dumps(listing), encoding="utf-8")


if __name__ == "__main__":
    main()
