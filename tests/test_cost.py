import math
import os
import time
from pathlib import Path

import pytest
import torch

from tdabench.cost import Cost, PhaseCost, measure_cost, phase


def test_time_outside_every_phase_counts_as_score():
    with measure_cost() as cost:
        time.sleep(0.02)

    assert set(cost.phases) == {"score"}
    assert cost.phases["score"].seconds >= 0.02
    assert cost.device == torch.device("cpu")


def test_phases_add_up_to_the_whole():
    start = time.perf_counter()
    with measure_cost() as cost:
        time.sleep(0.01)
        with phase("fit"):
            time.sleep(0.03)
        time.sleep(0.01)
        with phase("fit"):
            time.sleep(0.03)
    whole = time.perf_counter() - start

    assert set(cost.phases) == {"fit", "score"}
    assert cost.phases["fit"].seconds >= 0.06
    assert cost.phases["score"].seconds >= 0.02
    # What lies between two measurements (reading files of /proc) is in neither.
    parts = sum(part.seconds for part in cost.phases.values())
    assert 0.08 <= parts <= whole


def test_a_nested_phase_is_charged_to_itself_and_not_to_the_one_around_it():
    with measure_cost() as cost, phase("outer"):
        time.sleep(0.01)
        with phase("inner"):
            time.sleep(0.2)
        time.sleep(0.01)

    assert cost.phases["inner"].seconds >= 0.2
    # Well below the inner phase's time, on however slow a machine.
    assert 0.02 <= cost.phases["outer"].seconds < cost.phases["inner"].seconds


def test_an_outer_phase_goes_on_after_an_error_in_an_inner_one():
    with measure_cost() as cost, phase("outer"):
        with pytest.raises(KeyError, match="inside"), phase("inner"):
            raise KeyError("inside")
        time.sleep(0.02)

    assert cost.phases["outer"].seconds >= 0.02


def test_cost_is_there_also_after_an_error():
    def fail() -> None:
        with measure_cost() as cost:
            measured.append(cost)
            time.sleep(0.01)
            raise KeyError("inside")

    measured: list[Cost] = []
    with pytest.raises(KeyError, match="inside"):
        fail()

    assert measured[0].phases["score"].seconds >= 0.01
    with phase("after"):  # no measurement is left over
        pass
    assert set(measured[0].phases) == {"score"}


def test_a_phase_without_a_measurement_does_nothing():
    with phase("fit"):
        result = 1

    assert result == 1


def test_processor_time_counts_work_and_not_waiting():
    with measure_cost() as cost:
        with phase("work"):
            end = time.process_time() + 0.1
            while time.process_time() < end:
                pass
        with phase("wait"):
            time.sleep(0.2)

    assert cost.phases["work"].cpu_seconds >= 0.1
    assert cost.phases["wait"].cpu_seconds < 0.1


def test_growth_of_the_workspace_is_charged_to_the_phase_that_wrote(tmp_path):
    (tmp_path / "before").write_bytes(bytes(5000))

    with measure_cost(workspace=tmp_path) as cost:
        with phase("fit"):
            (tmp_path / "folder").mkdir()
            (tmp_path / "folder" / "factors").write_bytes(bytes(3000))
        (tmp_path / "scores").write_bytes(bytes(200))

    assert cost.phases["fit"].disk_bytes == 3000
    assert cost.phases["score"].disk_bytes == 200


def test_an_absent_workspace_is_empty(tmp_path):
    with measure_cost(workspace=tmp_path / "later") as cost:
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "file").write_bytes(bytes(100))

    assert cost.phases["score"].disk_bytes == 100


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset a process's peak memory")
def test_peak_memory_counts_a_tensor_that_lived_only_in_the_phase():
    size = 2**28  # far above what else may change in between
    before = _resident_bytes()

    with measure_cost() as cost:
        with phase("large"):
            tensor = torch.ones(size, dtype=torch.uint8)
            del tensor
        with phase("small"):
            pass

    assert cost.phases["large"].peak_host_bytes >= before + 0.9 * size
    assert cost.phases["small"].peak_host_bytes <= cost.phases["large"].peak_host_bytes - 0.9 * size
    assert cost.phases["large"].peak_device_bytes == 0


def test_parts_of_a_phase_add_their_times_and_disk_and_keep_the_highest_peaks():
    cost = Cost(torch.device("cpu"))

    cost.add("fit", PhaseCost(seconds=1.0, cpu_seconds=2.0, peak_host_bytes=10, peak_device_bytes=7, disk_bytes=5))
    cost.add("fit", PhaseCost(seconds=0.5, cpu_seconds=1.0, peak_host_bytes=8, peak_device_bytes=9, disk_bytes=-2))

    assert cost.phases == {
        "fit": PhaseCost(seconds=1.5, cpu_seconds=3.0, peak_host_bytes=10, peak_device_bytes=9, disk_bytes=3)
    }


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("part", [{}, {"passes": None}])
def test_passes_that_a_record_does_not_know_make_the_sum_unknown(part):
    cost = Cost(torch.device("cpu"))
    cost.add("score", PhaseCost(passes=5))

    cost.add_recorded({"score": {"seconds": 1.0, **part}, "fit": {"passes": 7}})

    assert math.isnan(cost.phases["score"].passes)
    assert cost.phases["fit"].passes == 7
