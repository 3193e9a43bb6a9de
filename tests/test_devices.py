import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tdabench.runtime.devices import choose_device, lock_folder

HOLDER = """
import sys
from pathlib import Path
from tdabench.runtime.devices import take_slot
print(take_slot(["a", "b"], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def test_jobs_take_different_slots_and_one_waits_until_a_slot_is_free(tmp_path):
    first, second = _hold(tmp_path), _hold(tmp_path)
    before = {int(holder.stdout.readline()) for holder in (first, second)}
    assert before == {0, 1}
    third = _hold(tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        third.wait(timeout=3)

    _end(second)

    assert int(third.stdout.readline()) in before
    _end(first)
    _end(third)


def test_a_folder_of_locks_that_leads_elsewhere_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"tdabench-gpus-{os.getuid()}").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(PermissionError, match="is not yours"):
        lock_folder(tmp_path)


def test_without_a_gpu_auto_is_the_cpu_and_a_name_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert choose_device("auto") == torch.device("cpu")
    assert choose_device("cuda:3") == torch.device("cuda", 3)


def _hold(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _end(holder: subprocess.Popen[str]) -> None:
    holder.communicate()
