"""An optional watermark in the samples of generated speech: AudioSeal's streaming generator behind the codec.

The generator reads speech and returns a quiet signal that is added to it. A detector of the same family finds the
signal in a recording and reads 16 bits from it. The package ``audioseal`` has the layers and loads the weights; this
module runs them piece by piece for many streams.

Source: San Roman et al., "Proactive Detection of Voice Cloning with Localized Watermarking" (2024).
"""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.audio.pcm import audible
from serve_app.config import WatermarkConfig
from serve_app.model.locate import CheckpointError

MESSAGE_BITS = 16

_CARD = "audioseal_wm_streaming"
"""The generator's settings, which ``audioseal`` contains; only a causal generator can mark speech while it is made."""


_WEIGHT_NORM = re.compile(r"\.(parametrizations\.)?weight(_[gv]|\.original[01])$")
"""The end of the two names under which a file may have one weight: its direction and its length."""

_UNREADABLE = (
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
"""What a file of another kind makes torch and audioseal raise."""


class Watermark:
    """The generator of one replica, for all of its streams. Only one thread at a time may call :meth:`mark`.

    Attributes:
        label: the settings, for :data:`serve_app.model.factory.LoadedModel.rendering`.
    """

    def __init__(self, generator: torch.nn.Module, config: WatermarkConfig, device: torch.device) -> None:
        """Use ``generator``, an ``AudioSealWM``, on a device; it is changed in place."""
        self._generator: Any = generator.to(device).eval()
        self.label = f"watermark {config.message}, strength {config.strength:g}"
        self._device = device
        self._strength = config.strength
        bits = [config.message >> bit & 1 for bit in reversed(range(MESSAGE_BITS))]
        self._message = torch.tensor([bits], device=device)
        self._hop: int = self._generator.encoder.hop_length
        self._layers: list[Any] = [each for each in generator.modules() if hasattr(each, "_streaming_state")]

    def begin(self) -> list[Any]:
        """Return the state of a stream's beginning, one for each layer."""
        # AudioSeal 0.2's own streaming() changes the state of the outermost module only, and every piece would be
        # computed as if nothing came before it.
        states = [layer._init_streaming_state(1) for layer in self._layers]  # noqa: SLF001 - there is no public way
        for state in states:
            state.init_stream()
        return states

    @torch.inference_mode()
    def mark(self, pcm: NDArray[np.float32], states: list[Any]) -> NDArray[np.float32]:
        """Add the watermark to the next samples of a stream and update its states.

        Args:
            pcm: [N] float32, mono, 24 kHz; not changed. The generator works on blocks of 320 samples, a sixth of a
                frame. Zeros are put in front of samples that do not fill their blocks.
            states: from :meth:`begin`; changed in place.

        Returns:
            [N] float32 in [-1, 1].
        """
        from audioseal.libs.moshi.utils.compile import no_compile  # noqa: PLC0415 - an optional dependency

        if not len(pcm):
            return pcm
        for layer, state in zip(self._layers, states, strict=True):
            layer._streaming_state = state  # noqa: SLF001 - see begin()
        samples = np.pad(audible(pcm), (-len(pcm) % self._hop, 0))
        with no_compile():
            mark = self._generator.get_watermark(
                torch.from_numpy(samples).to(self._device)[None, None], message=self._message
            )
        marked = pcm + np.float32(self._strength) * mark[0, 0, len(samples) - len(pcm) :].cpu().numpy()
        return np.clip(marked, -1.0, 1.0)


def load_watermark(config: WatermarkConfig, device: torch.device) -> Watermark:
    """Load AudioSeal's streaming generator.

    The file is a pickle, which can run any code while it is loaded.

    Raises:
        CheckpointError: ``audioseal`` is not installed, or the file is missing or has other weights.
    """
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # audioseal 0.2 with torch 2.14
        return Watermark(_generator(Path(config.weights)), config, device)


def _generator(path: Path) -> torch.nn.Module:
    try:
        from audioseal import builder, loader  # noqa: PLC0415 - an optional dependency
    except ImportError as missing:
        raise CheckpointError(
            "model.watermark needs the package audioseal: pip install 'qwen3-tts-serve[watermark]'"
        ) from missing
    if not path.is_file():
        raise CheckpointError(f"model.watermark.weights is '{path}', which is not a file")
    card: Any = loader.load_local_model_config(_CARD)
    generator = builder.create_generator(loader.AudioSeal.parse_config(card, config_type=builder.AudioSealWMConfig))
    try:
        saved: Any = loader.load_model_checkpoint(path)
        saved = loader.convert_state_dict_for_scriptable_model(saved.get("best_state", saved).get("model", saved))
        # audioseal itself accepts a file in which layers are missing.
        if {_WEIGHT_NORM.sub(".weight", name) for name in saved} != set(generator.state_dict()):
            raise ValueError("its layers have other names")
        loader.load_state_dict(generator, saved)
    except _UNREADABLE as error:
        wanted = "AudioSeal's streaming generator (generator_streaming.pth)"
        raise CheckpointError(f"{path} does not have the weights of {wanted}: {error}") from error
    return generator
