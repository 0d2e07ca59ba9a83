"""AudioSeal's streaming generator with random weights, and a file with the names of the released one."""

from pathlib import Path

import torch
from audioseal import builder, loader


def random_generator() -> torch.nn.Module:
    """Seeded, so that each call returns the same weights."""
    torch.manual_seed(0)
    card = loader.load_local_model_config("audioseal_wm_streaming")
    return builder.create_generator(loader.AudioSeal.parse_config(card, config_type=builder.AudioSealWMConfig)).eval()


def saved(generator: torch.nn.Module, folder: Path) -> str:
    """The path of a new file with the weights."""
    file = folder / "generator_streaming.pth"
    weights = {name.replace(".inner_conv", ""): each for name, each in generator.state_dict().items()}
    torch.save({"model": weights}, file)
    return str(file)
