"""The server that forks jobs: the same commands, statuses, outputs and signals as without it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tdabench.runtime import forked, forkserver

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a fork server needs Linux")
# Starts a server, runs commands one after another (each a line of shell), and says what each came to.
OWNER = """
import signal, subprocess, sys
from tdabench.runtime import forked, forkserver
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where it is ignored, as in the background
forkserver.GPUS = ()
server = forkserver.start()
print(server.pid, flush=True)
for line in sys.stdin:
    print(subprocess.run(["bash", "-c", line], stdin=subprocess.DEVNULL).returncode, flush=True)
"""
PLUG_IN = """
import os, sys, time, multiprocessing
from pathlib import Path

class Told:
    def load(self, root):
        Path("parent").write_text(str(os.getppid()))
        exec(Path("told").read_text())
"""
EXPERIMENT = """\
seed: 0
data: {source: "plugged:Told", train_sizes: [60], queries: 30}
model: {builder: "tdabench.models.small_cnn:SmallCNN", width: 4}
training: {optimizer: adamw, epochs: 1, batch_size: 32, learning_rate: 0.01, weight_decay: 0.01}
bank: {subsets: 6, fraction: 0.5, retrains: 1}
methods: {random: {attributor: "tdabench.attributors.baselines:Random"}}
"""
ARGUMENTS = "dataset experiments/told.yaml"
COMMAND = f"exec env OMP_NUM_THREADS=1 tdabench {ARGUMENTS}"


class Owner:
    """A process with a server."""

    def __init__(self, folder: Path) -> None:
        (folder / "experiments").mkdir()
        (folder / "experiments" / "told.yaml").write_text(EXPERIMENT)
        self.environment = {key: value for key, value in os.environ.items() if key != "TDABENCH_FORKSERVER"}
        self.environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), self.environment["PATH"]])
        self.folder = folder
        with (folder / "errors").open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", OWNER], cwd=folder, env={**self.environment, "TMPDIR": str(folder)}, text=True,
                bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        self.server = psutil.Process(int(self.process.stdout.readline()))
        self.clean()

    def clean(self) -> None:
        """Forget what earlier commands left."""
        for path in self.folder.iterdir():
            if path.is_file() and path.name != "errors":
                path.unlink()
        os.truncate(self.folder / "errors", 0)
        (self.folder / "plugged.py").write_text(PLUG_IN)

    def begin(self, told: str, command: str = COMMAND) -> None:
        """Have a command begun whose data says something in Python."""
        (self.folder / "told").write_text(told)
        self.process.stdin.write(command + "\n")

    def end(self) -> int:
        return int(self.process.stdout.readline())

    def run(self, told: str, command: str = COMMAND) -> int:
        self.begin(told, command)
        return self.end()

    def command(self) -> psutil.Process:
        return next(child for child in psutil.Process(self.process.pid).children() if child.pid != self.server.pid)

    def was_forked(self) -> bool:
        return self.read("parent") == str(self.server.pid)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    def wait_for(self, name: str) -> int:
        """Wait for a file with the number of a process."""
        deadline = time.monotonic() + 60
        while not (self.folder / name).is_file() or not self.read(name):
            assert time.monotonic() < deadline, self.read("errors")
            time.sleep(0.05)
        return int(self.read(name))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    made = Owner(tmp_path_factory.mktemp("owner"))
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.fixture
def shared(running):
    """Return a server that others have used."""
    running.clean()
    return running


@pytest.fixture
def owner(tmp_path):
    """Return a server that a test may end."""
    made = Owner(tmp_path)
    yield made
    made.process.kill()
    made.process.communicate()


def is_gone(number: int, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(number).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_a_command_runs_in_a_fork_with_its_own_folder_variables_and_output(shared):
    told = (
        "print('said', os.environ['MINE'], os.getcwd()); sys.stderr.write('erred\\n'); raise ValueError('no data here')"
    )

    status = shared.run(told, COMMAND.replace("exec env", "MINE=seven exec env") + " > said 2> erred")

    assert status == 1
    assert shared.was_forked()
    assert shared.read("said") == f"said seven {shared.folder}\n"
    assert shared.read("erred").startswith("erred\ntdabench dataset: no data here (plugged:Told, ")


def test_the_server_holds_torch_in_one_thread_and_nothing_of_the_package_but_itself(shared):
    told = "Path('modules').write_text(' '.join(sys.modules)); raise ValueError('-')"

    held: list[str] = []
    deadline = time.monotonic() + 60
    while "scipy.stats" not in held and time.monotonic() < deadline:  # it imports the last while nothing is asked for
        assert shared.run(told) == 1
        held = shared.read("modules").split()
        time.sleep(0.5)

    own = ("tdabench.runtime", "tdabench.runtime.forked")  # the server's
    ours = [place for place, name in enumerate(held) if name.startswith("tdabench.") and name not in own]
    assert held.index("torch") < held.index("kronfluence.analyzer") < held.index("scipy.stats") < min(ours)
    assert shared.server.num_threads() == 1


def test_a_plug_in_that_was_edited_between_two_commands_is_read_anew(shared):
    assert shared.run("raise ValueError('first')") == 1
    plug_in = shared.folder / "plugged.py"
    plug_in.write_text(PLUG_IN.replace("exec(", "raise ValueError('edited') or exec("))
    os.utime(plug_in, (time.time() + 2,) * 2)
    assert shared.run("raise ValueError('second')") == 1

    first, second = shared.read("errors").splitlines()
    assert first.startswith("tdabench dataset: first (plugged:Told, ")
    assert second.startswith("tdabench dataset: edited (plugged:Told, plugged.py:")


def test_what_was_left_for_the_end_of_the_interpreter_is_done(shared):
    told = (
        "import atexit, threading\natexit.register(Path('at-exit').touch)\n"
        "threading.Timer(1, Path('in-thread').touch).start()\nprint('buffered')\n"
        "multiprocessing.kept = open('left-open', 'w')\nmultiprocessing.kept.write('kept')\nraise ValueError('-')"
    )

    assert shared.run(told, COMMAND + " > said") == 1

    assert (shared.folder / "at-exit").is_file()
    assert (shared.folder / "in-thread").is_file()
    assert shared.read("left-open") == "kept"
    assert shared.read("said") == "buffered\n"


def test_two_forks_draw_other_random_numbers_where_no_seed_is_set(shared):
    drawn = "[numpy.random.rand(), random.random(), float(torch.rand(()))]"
    told = f"import numpy, random, torch; Path('{{}}').write_text(str({drawn})); raise ValueError('-')"

    shared.run(told.format("one"))
    shared.run(told.format("two"))

    one, two = (json.loads(shared.read(name)) for name in ("one", "two"))
    assert all(first != second for first, second in zip(one, two, strict=True))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_that_a_signal_ended_ends_its_command_the_same_way(shared, number):
    status = shared.run(f"os.kill(os.getpid(), {int(number)})")

    assert status == -number  # of bash, which has become the command
    assert shared.was_forked()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_command_reaches_the_job_and_an_interrupt_lets_it_clean_up(shared, number):
    told = (
        "try:\n Path('job').write_text(str(os.getpid()))\n time.sleep(120)\nfinally:\n Path('cleaned').write_text('1')"
    )
    shared.begin(told)
    job = shared.wait_for("job")
    assert Path(f"/proc/{job}/comm").read_text() == "tdabench datase\n"  # the system keeps 15 characters

    shared.command().send_signal(number)

    assert shared.end() in (-number, 1)  # where torch._dynamo was imported, Python ends with 1 at an interrupt
    assert is_gone(job)
    assert (shared.folder / "cleaned").is_file() == (number == signal.SIGINT)


def test_an_interrupt_that_is_ignored_is_ignored_by_the_job_too(shared):
    told = "Path('job').write_text(str(os.getpid()))\ntime.sleep(3)\nraise ValueError('went on')"
    shared.begin(told, f"trap '' INT; {COMMAND}")
    shared.wait_for("job")

    shared.command().send_signal(signal.SIGINT)

    assert shared.end() == 1
    assert "tdabench dataset: went on" in shared.read("errors")


def test_a_command_that_is_killed_takes_its_job_along_with_all_that_it_started(shared):
    told = (
        "import subprocess\nchild = subprocess.Popen(['sleep', '120'])\nPath('child').write_text(str(child.pid))\n"
        "Path('job').write_text(str(os.getpid()))\ntime.sleep(120)"
    )
    shared.begin(told)
    job, child = shared.wait_for("job"), shared.wait_for("child")

    shared.command().kill()

    assert shared.end() == -signal.SIGKILL
    assert is_gone(job)
    assert is_gone(child)
    assert shared.run("raise ValueError('next')") == 1  # the server goes on


@pytest.mark.parametrize(
    ("variables", "begin"),
    [
        ("PYTHONHASHSEED=7", "tdabench"),
        ("OMP_NUM_THREADS=2", "tdabench"),
        ("TDABENCH_FORKSERVER=1${TDABENCH_FORKSERVER#*:}", "tdabench"),
        ("TDABENCH_FORKSERVER=off", "tdabench"),
        # Another file that is the same program, as that of a container is.
        ("", f"{sys.executable} -c \"import sys; sys.executable = './python'; "
             "from tdabench.cli import main; sys.exit(main())\""),
    ],
    ids=["another setting", "more threads", "another owner", "off", "another Python"],
)  # fmt: skip
def test_a_command_that_the_server_can_not_stand_for_runs_by_itself(shared, variables, begin):
    (shared.folder / "python").write_bytes(Path(sys.executable).read_bytes())

    assert shared.run("raise ValueError('alone')", f"exec env OMP_NUM_THREADS=1 {variables} {begin} {ARGUMENTS}") == 1

    assert "dataset: alone" in shared.read("errors")
    assert not shared.was_forked()


def test_a_command_outside_the_run_that_started_the_server_runs_by_itself(shared):
    shared.run("Path('variable').write_text(os.environ['TDABENCH_FORKSERVER']); raise ValueError('-')")
    (shared.folder / "told").write_text("raise ValueError('outside')")
    environment = {**shared.environment, "TDABENCH_FORKSERVER": shared.read("variable")}

    done = subprocess.run(
        ["bash", "-c", COMMAND], cwd=shared.folder, env=environment, capture_output=True, text=True, check=False
    )

    assert "tdabench dataset: outside" in done.stderr
    assert not shared.was_forked()


def test_a_job_outlives_the_owner_and_the_server_ends_after_it_and_leaves_nothing(owner):
    owner.begin("Path('job').write_text(str(os.getpid()))\ntime.sleep(3)\nPath('done').write_text('1')")
    job = owner.wait_for("job")
    assert list(owner.folder.glob("tdabench-*"))

    owner.process.kill()

    assert is_gone(job)
    assert (owner.folder / "done").is_file()
    assert is_gone(owner.server.pid)
    assert not list(owner.folder.glob("tdabench-*"))


def test_a_job_whose_server_is_killed_ends_too_and_its_command_and_those_after_it_run_by_themselves(owner):
    told = (
        "Path(f'begun-{os.getpid()}').touch()\nPath('job').write_text(str(os.getpid()))\n"
        "while not Path('go').exists(): time.sleep(0.05)\nraise ValueError('-')"
    )
    owner.begin(told)
    job = owner.wait_for("job")

    owner.server.kill()

    assert is_gone(job)
    (owner.folder / "go").touch()
    assert owner.end() == 1
    assert len(list(owner.folder.glob("begun-*"))) == 2
    assert owner.run("raise ValueError('alone')") == 1
    assert "tdabench dataset: alone" in owner.read("errors")
    assert not owner.was_forked()


def test_no_server_where_there_is_a_gpu_or_its_address_is_too_long(monkeypatch, tmp_path):
    monkeypatch.delenv("TDABENCH_FORKSERVER", raising=False)
    monkeypatch.setattr(forkserver, "GPUS", (str(tmp_path),))
    assert forkserver.start() is None

    monkeypatch.setattr(forkserver, "GPUS", ())
    for name in ("ü" * 50, "x" * 120):  # long in bytes, and long
        (tmp_path / name).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
        assert forkserver.start() is None
        assert list((tmp_path / name).iterdir()) == []
    assert "TDABENCH_FORKSERVER" not in os.environ


@pytest.mark.parametrize("stage", ["measure", "plan"])
def test_what_measures_costs_is_not_forked(monkeypatch, stage):
    monkeypatch.setattr(forked, "_descends_from", lambda ancestor: pytest.fail("it would be forked"))
    monkeypatch.setenv("TDABENCH_FORKSERVER", f"{os.getppid()}:/nowhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    assert forked.run_in_fork([stage, "experiment"]) is None
