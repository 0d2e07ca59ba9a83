"""The options of the chaos tests, and the modules of ``benchmarks/`` that they share: a listener and a cluster."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))


def pytest_addoption(parser):
    parser.addoption("--config", type=Path, default=ROOT / "configs" / "local.yaml")
    parser.addoption("--fault", default="generator", help="faults to inject in turn, with commas between")
    parser.addoption("--times", type=int, default=20, help="most faults")
    parser.addoption("--every", type=float, default=15.0, metavar="S", help="least seconds between faults")
    parser.addoption("--minutes", type=float, help="length of the run; default: until the last fault is over")
    parser.addoption("--listeners", type=int, default=4, help="listeners that speak without a pause and compare")
    parser.addoption("--mixed", action="store_true", help="add clients that cancel, disconnect, or never read")
    parser.addoption("--seed", type=int, default=1, help="seed of random choices: fault targets, times of cancels")
    parser.addoption("--json", help="file for the results")
