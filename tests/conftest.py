"""What every test shares: checked shapes, watched random states, one thread, and the real data's folder."""

import gc
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import jaxtyping
import numpy as np
import pytest
import sklearn.datasets  # noqa: F401 (rich, where it is installed, draws when it is imported)
import torch
from places import RICH, Place, make_place
from torch import Tensor, nn

# beartype chooses which entry of a list it checks by random.getrandbits: it gets a stream of its own, so that a check
# moves no global random state.
with mock.patch.object(random, "getrandbits", random.Random(0).getrandbits):
    import beartype.door  # noqa: F401

# Before tdabench is imported: every annotation of a shape is checked by beartype.
jaxtyping.install_import_hook("tdabench", "beartype.beartype")

from tdabench.attributors.base import Examples, LossFn, num_examples, take  # noqa: E402

torch.set_num_threads(1)

# Repeatable, and nothing written beside the code; timings of a shared machine are no failures.
hypothesis.settings.register_profile("tdabench", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("tdabench")


@pytest.fixture(autouse=True)
def _spare_the_garbage_collector() -> None:
    # kronfluence collects at every step, which takes 0.2 s with all that pytest and the libraries keep in memory.
    gc.freeze()


@pytest.fixture(autouse=True)
def _global_random_state_does_not_move() -> Iterator[None]:
    before = _global_random_state()

    yield

    moved = [name for name, state in _global_random_state().items() if state != before[name]]
    assert not moved, f"a draw had no generator: the global random state moved in {moved}"


def _global_random_state() -> dict[str, object]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (name, keys.tobytes(), *rest),
        "random": random.getstate(),
    }


@pytest.fixture
def data_root() -> Path:
    """Return the folder of real data that ``TDABENCH_DATA`` names."""
    if "TDABENCH_DATA" not in os.environ:
        pytest.skip("needs real data: TDABENCH_DATA is not set")
    root = Path(os.environ["TDABENCH_DATA"])
    if not root.is_dir():
        pytest.skip(f"needs real data: TDABENCH_DATA names {root}, which is no folder")
    return root


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Run as in production, without beartype: for errors of ours that come after a wrong type or shape."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def example_gradients() -> Callable[[nn.Module, LossFn, Examples], Tensor]:
    """Return a function that computes each example's gradient by plain autograd, in float64: (example, parameter)."""
    return _example_gradients


def _example_gradients(model: nn.Module, loss: LossFn, examples: Examples) -> Tensor:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = []
    for index in range(num_examples(examples)):
        gradients = torch.autograd.grad(loss(model, take(examples, slice(index, index + 1))).sum(), trained)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows).double()


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, str]:
    """Run a small experiment on one core; return its folder, not to be changed, and what was on the terminal."""
    place = make_place(tmp_path_factory.mktemp("workflow") / "finished", RICH)
    done = place.snakemake("--cores", "1", "tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    return place, done.stdout + done.stderr


@pytest.fixture(scope="session")
def finished(run: tuple[Place, str]) -> Place:
    """Return the folder of the small experiment; not to be changed."""
    return run[0]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Return a Chromium without a window; without one, skip, or fail where ``TDABENCH_REQUIRE_BROWSER`` is 1."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        missing = pytest.fail if os.environ.get("TDABENCH_REQUIRE_BROWSER") == "1" else pytest.skip
        missing("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # The driver's path is given, or selenium would look for one on the network.
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


# Longest first, so that no process is left alone with one of them in the end.
LONGEST = ("test_workflow.py", "test_interruptions.py", "test_simulated_banks.py", "test_extrapolation.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
