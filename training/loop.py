"""A training run: runs steps until its time is up, saves checkpoints, and logs. It does not know what is trained.

A restarted run continues from its last checkpoint. The learning rate does not depend on the last step: it falls with
the square root of the number of steps. A running mean of the weights is evaluated and released.
"""

import argparse
import copy
import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

_MEAN_DECAY = 0.999
_WARM_UP_STEPS = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to train.

    Attributes:
        minutes: wall time of this call.
        rate: highest learning rate.
        full_rate_steps: steps at the highest rate before it falls.
        clip: largest norm of the gradients.
        log_steps: steps per line of the log.
        save_minutes: time between checkpoints.
        judge_steps: steps between evaluations.
        mixed: whether to allow bfloat16 matmuls, if the device has instructions for them.
        cooling: whether the learning rate falls to zero within ``minutes``, for the last run before a model is used.
    """

    minutes: float
    rate: float
    full_rate_steps: int = 2000
    clip: float = 1.0
    log_steps: int = 50
    save_minutes: float = 4.0
    judge_steps: int = 500
    mixed: bool = False
    cooling: bool = False


def learning_rate(step: int, plan: Plan) -> float:
    """Rise for 200 steps, stay, then fall with the square root of the number of steps."""
    rise = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return plan.rate * rise * min(1.0, (plan.full_rate_steps / max(1, step)) ** 0.5)


def read_options(description: str | None, seed: int) -> argparse.Namespace:
    """Read a training command's options, and set torch's threads and seed by them.

    Returns:
        ``state``, ``minutes``, ``cool``, ``threads`` and ``seed``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--cool", action="store_true", help="the last run: let the learning rate fall to zero")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=seed)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    return options


def device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Sums:
    """Sums of values of the steps since the last line of the log."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one step."""
        self._count += 1
        for name, value in values.items():
            self._totals[name] = self._totals.get(name, 0.0) + float(value.detach())

    def means(self) -> dict[str, float]:
        """Return the means, and reset."""
        means = {name: total / self._count for name, total in self._totals.items()}
        self._totals, self._count = {}, 0
        return means


def _has_bfloat16() -> bool:
    return device().type == "cuda" or torch.cpu._is_amx_tile_supported()


class Run:
    """One model in training, its running mean, and the directory in which both are saved."""

    def __init__(self, directory: Path, model: nn.Module, plan: Plan) -> None:
        """Load the checkpoint in ``directory``, if there is one."""
        self.directory = directory
        self.model = model.to(device())
        self.mean = copy.deepcopy(self.model).requires_grad_(requires_grad=False).eval()
        self.plan = plan
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [each for each in trained if each.dim() > 1], "weight_decay": 0.01},
            {"params": [each for each in trained if each.dim() <= 1], "weight_decay": 0.0},
        ]
        self._trained = trained
        self.optimizer = torch.optim.AdamW(groups, plan.rate, betas=(0.9, 0.98))
        self.step = 0
        self.minutes = 0.0
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / "last.pt").exists():
            kept = torch.load(directory / "last.pt", map_location=device(), weights_only=True)
            self.model.load_state_dict(kept["model"])
            self.mean.load_state_dict(kept["mean"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.step, self.minutes = kept["step"], kept["minutes"]

    def train(
        self,
        losses: Callable[[nn.Module, int], Mapping[str, Tensor]],
        judge: Callable[[nn.Module, int], Mapping[str, float]],
    ) -> None:
        """Train for the plan's minutes, or until the process receives SIGTERM; saves a checkpoint in both cases.

        Args:
            losses: returns the losses of a model at a step; minimizes the one named ``loss`` and logs all of them.
            judge: evaluates a model; called regularly, and at the end unless the process received SIGTERM.
        """
        end_s = time.monotonic() + self.plan.minutes * 60
        lap_s = saved_s = time.monotonic()
        sums = Sums()
        told: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
        while time.monotonic() < end_s and not told:
            with torch.autocast(device().type, torch.bfloat16, enabled=self.plan.mixed and _has_bfloat16()):
                found = losses(self.model, self.step)
            left = (end_s - time.monotonic()) / (self.plan.minutes * 60) if self.plan.cooling else 1.0
            self._update(found["loss"], max(0.0, left))
            sums.add(found)
            now_s = time.monotonic()
            self.minutes += (now_s - lap_s) / 60
            lap_s = now_s
            if self.step % self.plan.log_steps == 0:
                self.log(sums.means())
            if self.step % self.plan.judge_steps == 0:
                self._judge(judge)
            if now_s - saved_s > self.plan.save_minutes * 60:
                self.save()
                saved_s = time.monotonic()
        signal.signal(signal.SIGTERM, before)
        self.log(sums.means())
        self.save()
        if not told:
            self._judge(judge)

    @torch.no_grad()
    def _judge(self, judge: Callable[[nn.Module, int], Mapping[str, float]]) -> None:
        self.log({f"held {name}": value for name, value in judge(self.mean, self.step).items()})

    def _update(self, loss: Tensor, share: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.plan) * share
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, self.plan.clip)
        self.optimizer.step()
        self.step += 1
        decay = min(_MEAN_DECAY, self.step / (self.step + 20))
        with torch.no_grad():
            for mean, parameter in zip(self.mean.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(parameter, 1 - decay)
            for mean, buffer in zip(self.mean.buffers(), self.model.buffers(), strict=True):
                mean.copy_(buffer)

    def log(self, values: Mapping[str, float]) -> None:
        """Print a line, and append it to the run's log."""
        line = {"step": self.step, "minutes": round(self.minutes, 2)}
        line |= {name: round(value, 4) for name, value in values.items()}
        print(" ".join(f"{name} {value}" for name, value in line.items()), flush=True)
        with (self.directory / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write the checkpoint; a reader sees either the old one or the new one."""
        kept = {
            "model": self.model.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "minutes": self.minutes,
        }
        partial = self.directory / "partial.pt"
        torch.save(kept, partial)
        partial.replace(self.directory / "last.pt")
