"""Windows that begin with the history in a row of state."""

import torch
from torch import Tensor

from serve_app.model.backends.protocol import CodecStep
from serve_app.model.codec_weights import History


def open_window(history: History, step: CodecStep, new_columns: int) -> Tensor:
    """Make a window [B, columns + new_columns, channels] that begins with the history; the rest is unset."""
    past = _past(history, step)
    window = past.new_empty(past.shape[0], history.columns + new_columns, history.channels)
    window[:, : history.columns] = past
    return window


def close_window(history: History, step: CodecStep, window: Tensor) -> None:
    """Save the last real columns of a filled window as history; mutates ``step.state``."""
    new_columns = window.shape[1] - history.columns
    if step.n_frames is None:
        recent = window[:, new_columns:]
    else:
        row = torch.arange(window.shape[0], device=window.device) * window.shape[1]
        first = row + step.n_frames * (new_columns // step.frames)
        index = first[:, None] + torch.arange(history.columns, device=window.device)
        recent = window.flatten(0, 1)[index]
    _past(history, step).copy_(recent)


def _past(history: History, step: CodecStep) -> Tensor:
    end = history.start + history.columns * history.channels
    return step.state[:, history.start : end].unflatten(1, (history.columns, history.channels))
