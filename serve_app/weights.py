"""Where a model's weights come from, and what people are told about them."""

from typing import Literal

Weights = Literal["random", "demo", "trained"]
"""Random numbers, the package's demonstration voice, or a trained checkpoint such as the released model."""

NOTICES: dict[Weights | None, str] = {
    "random": (
        "The model's weights are random: what you hear is noise, not speech."
        " For speech, load the released model (configs/cpu.yaml or configs/gpu.yaml)."
    ),
    "demo": (
        "This is a small demonstration voice that speaks English only."
        " For real use, load the released model (configs/cpu.yaml or configs/gpu.yaml)."
    ),
    "trained": "",
    None: "",
}
"""A sentence for operators and listeners; empty if there is nothing to say, or if no model is loaded yet (None)."""
