"""The server that forks jobs: the same commands, statuses, outputs and signals as without it."""

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
REPOSITORY = Path(__file__).parents[1]
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
COMMAND = "exec env OMP_NUM_THREADS=1 tdabench dataset experiments/told.yaml"


class Owner:
    """A process with a server."""

    def __init__(self, folder: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "TDABENCH_FORKSERVER"}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        environment["TMPDIR"] = str(folder)
        self.folder = folder
        with (folder / "errors").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", OWNER], cwd=folder, env=environment, text=True, bufsize=1,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        self.server = psutil.Process(int(self.process.stdout.readline()))

    def begin(self, told: str, command: str = COMMAND) -> None:
        """Have a command begun whose data says something in Python."""
        (self.folder / "told").write_text(told)
        self.process.stdin.write(command + "\n")

    def end(self) -> int:
        return int(self.process.stdout.readline())

    def run(self, told: str, command: str = COMMAND) -> int:
        self.begin(told, command)
        return self.end()

    def was_forked(self) -> bool:
        return (self.folder / "parent").read_text() == str(self.server.pid)

    def errors(self) -> str:
        return (self.folder / "errors").read_text()

    def wait_for(self, name: str) -> int:
        """Wait for a file with the number of a process."""
        deadline = time.monotonic() + 60
        while not (self.folder / name).is_file() or not (self.folder / name).read_text():
            assert time.monotonic() < deadline, self.errors()
            time.sleep(0.05)
        return int((self.folder / name).read_text())


@pytest.fixture
def owner(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "told.yaml").write_text(EXPERIMENT)
    (tmp_path / "plugged.py").write_text(PLUG_IN)
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


def test_a_command_runs_in_a_fork_with_its_own_folder_variables_and_output(owner):
    told = (
        "print('said', os.environ['MINE'], os.getcwd()); sys.stderr.write('erred\\n'); raise ValueError('no data here')"
    )

    command = COMMAND.replace("exec env", "MINE=seven exec env") + " > said 2> erred"
    status = owner.run(told, command)

    assert status == 1
    assert owner.was_forked()
    assert (owner.folder / "said").read_text() == f"said seven {owner.folder}\n"
    assert (owner.folder / "erred").read_text() == "erred\ntdabench dataset: no data here\n"


def test_the_server_holds_torch_in_one_thread_and_nothing_of_the_package_but_itself(owner):
    told = "Path('modules').write_text(' '.join(sys.modules)); raise ValueError('-')"

    held: list[str] = []
    deadline = time.monotonic() + 60
    while "scipy.stats" not in held and time.monotonic() < deadline:  # it imports the last while nothing is asked for
        assert owner.run(told) == 1
        held = (owner.folder / "modules").read_text().split()
        time.sleep(0.5)

    own = ("tdabench.runtime", "tdabench.runtime.forked")  # the server's
    ours = [place for place, name in enumerate(held) if name.startswith("tdabench.") and name not in own]
    assert held.index("torch") < held.index("kronfluence.analyzer") < held.index("scipy.stats") < min(ours)
    assert owner.server.num_threads() == 1


def test_a_plug_in_that_was_edited_between_two_commands_is_read_anew(owner):
    assert owner.run("raise ValueError('first')") == 1
    plug_in = owner.folder / "plugged.py"
    plug_in.write_text(PLUG_IN.replace("exec(", "raise ValueError('edited') or exec("))
    os.utime(plug_in, (time.time() + 2,) * 2)
    assert owner.run("raise ValueError('second')") == 1

    assert owner.errors() == "tdabench dataset: first\ntdabench dataset: edited\n"


def test_what_was_left_for_the_end_of_the_interpreter_is_done(owner):
    told = (
        "import atexit, threading\natexit.register(Path('at-exit').touch)\n"
        "threading.Timer(1, Path('in-thread').touch).start()\nprint('buffered')\n"
        "multiprocessing.kept = open('left-open', 'w')\nmultiprocessing.kept.write('kept')\nraise ValueError('-')"
    )

    assert owner.run(told, COMMAND + " > said") == 1

    assert (owner.folder / "at-exit").is_file()
    assert (owner.folder / "in-thread").is_file()
    assert (owner.folder / "left-open").read_text() == "kept"
    assert (owner.folder / "said").read_text() == "buffered\n"


@pytest.mark.parametrize("drawn", ["numpy.random.rand()", "random.random()", "float(torch.rand(()))"])
def test_two_forks_draw_other_random_numbers_where_no_seed_is_set(owner, drawn):
    told = f"import numpy, random, torch; Path('{{}}').write_text(str({drawn})); raise ValueError('-')"

    owner.run(told.format("one"))
    owner.run(told.format("two"))

    one, two = (float((owner.folder / name).read_text()) for name in ("one", "two"))
    assert one != two


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_that_a_signal_ended_ends_its_command_the_same_way(owner, number):
    status = owner.run(f"os.kill(os.getpid(), {int(number)})")

    assert status == -number  # of bash, which has become the command
    assert owner.was_forked()


def test_a_signal_to_the_command_reaches_the_job(owner):
    owner.begin("Path('job').write_text(str(os.getpid()))\ntime.sleep(120)")
    job = psutil.Process(owner.wait_for("job"))
    assert Path(f"/proc/{job.pid}/comm").read_text() == "tdabench datase\n"  # the system keeps 15 characters
    command = next(child for child in psutil.Process(owner.process.pid).children() if child.pid != owner.server.pid)

    command.send_signal(signal.SIGTERM)

    assert owner.end() == -signal.SIGTERM
    assert is_gone(job.pid)


def test_an_interrupt_lets_the_job_clean_up(owner):
    told = (
        "try:\n Path('job').write_text(str(os.getpid()))\n time.sleep(120)\nfinally:\n Path('cleaned').write_text('1')"
    )
    owner.begin(told)
    owner.wait_for("job")
    command = next(child for child in psutil.Process(owner.process.pid).children() if child.pid != owner.server.pid)

    command.send_signal(signal.SIGINT)

    assert owner.end() == -signal.SIGINT
    assert (owner.folder / "cleaned").is_file()


def test_a_command_that_is_killed_takes_its_job_along_with_all_that_it_started(owner):
    told = (
        "import subprocess\nchild = subprocess.Popen(['sleep', '120'])\nPath('child').write_text(str(child.pid))\n"
        "Path('job').write_text(str(os.getpid()))\ntime.sleep(120)"
    )
    owner.begin(told)
    job, child = owner.wait_for("job"), owner.wait_for("child")
    command = next(child for child in psutil.Process(owner.process.pid).children() if child.pid != owner.server.pid)

    command.kill()

    assert owner.end() == -signal.SIGKILL
    assert is_gone(job)
    assert is_gone(child)
    assert owner.run("raise ValueError('next')") == 1  # the server goes on


def test_the_server_ends_with_its_owner_and_leaves_nothing(owner):
    assert owner.run("raise ValueError('-')") == 1
    assert list(owner.folder.glob("tdabench-*"))

    owner.process.kill()

    assert is_gone(owner.server.pid)
    assert not list(owner.folder.glob("tdabench-*"))


def test_a_job_outlives_the_owner_as_it_would_without_a_server(owner):
    owner.begin("Path('job').write_text(str(os.getpid()))\ntime.sleep(3)\nPath('done').write_text('1')")
    job = owner.wait_for("job")

    owner.process.kill()

    assert is_gone(job)
    assert (owner.folder / "done").is_file()
    assert is_gone(owner.server.pid)


def test_a_command_whose_server_was_killed_runs_by_itself(owner):
    assert owner.run("raise ValueError('-')") == 1
    owner.server.kill()
    (owner.folder / "parent").unlink()

    assert owner.run("raise ValueError('alone')") == 1

    assert "tdabench dataset: alone" in owner.errors()
    assert not owner.was_forked()


def test_a_job_whose_server_is_killed_ends_too_and_its_command_does_its_work(owner):
    told = (
        "Path(f'begun-{os.getpid()}').touch()\nwhile not Path('go').exists(): time.sleep(0.05)\nraise ValueError('-')"
    )
    owner.begin(told)
    deadline = time.monotonic() + 60
    while not (begun := list(owner.folder.glob("begun-*"))):
        assert time.monotonic() < deadline, owner.errors()
        time.sleep(0.05)
    job = int(begun[0].name.partition("-")[2])

    owner.server.kill()

    assert is_gone(job)
    (owner.folder / "go").touch()
    assert owner.end() == 1
    assert len(list(owner.folder.glob("begun-*"))) == 2
    assert not owner.was_forked()


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-"])
def test_a_command_without_a_standard_file_runs_by_itself(owner, closed):
    assert owner.run("raise ValueError('alone')", f"{COMMAND} {closed}") == 1
    assert not owner.was_forked()
    assert owner.run("raise ValueError('next')") == 1
    assert owner.was_forked()


@pytest.mark.parametrize(
    "command",
    [
        COMMAND.replace("OMP_NUM_THREADS=1", "OMP_NUM_THREADS=1 PYTHONHASHSEED=7"),
        COMMAND.replace("OMP_NUM_THREADS=1", "OMP_NUM_THREADS=2"),
        COMMAND.replace("OMP_NUM_THREADS=1", "OMP_NUM_THREADS=1 TDABENCH_FORKSERVER=1${TDABENCH_FORKSERVER#*:}"),
        COMMAND.replace("OMP_NUM_THREADS=1", "OMP_NUM_THREADS=1 TDABENCH_FORKSERVER=off"),
    ],
    ids=["another Python", "more threads", "another owner", "off"],
)
def test_a_command_that_the_server_can_not_stand_for_runs_by_itself(owner, command):
    assert owner.run("raise ValueError('alone')", command) == 1

    assert "tdabench dataset: alone" in owner.errors()
    assert not owner.was_forked()


def test_a_command_outside_the_run_that_started_the_server_runs_by_itself(owner, tmp_path):
    owner.run("Path('variable').write_text(os.environ['TDABENCH_FORKSERVER']); raise ValueError('-')")
    variable = (owner.folder / "variable").read_text()
    (owner.folder / "told").write_text("raise ValueError('outside')")
    environment = {**os.environ, "TDABENCH_FORKSERVER": variable}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])

    done = subprocess.run(
        ["bash", "-c", COMMAND], cwd=owner.folder, env=environment, capture_output=True, text=True, check=False
    )

    assert "tdabench dataset: outside" in done.stderr
    assert not owner.was_forked()


def test_an_interrupt_that_is_ignored_is_ignored_by_the_job_too(owner):
    told = "Path('job').write_text(str(os.getpid()))\ntime.sleep(3)\nraise ValueError('went on')"
    owner.begin(told, f"trap '' INT; {COMMAND}")
    owner.wait_for("job")
    command = next(child for child in psutil.Process(owner.process.pid).children() if child.pid != owner.server.pid)

    command.send_signal(signal.SIGINT)

    assert owner.end() == 1
    assert "tdabench dataset: went on" in owner.errors()


def test_another_interpreter_is_not_served(owner):
    # Another file that is the same program, as that of a container is.
    python = owner.folder / "python"
    prefix = f"import sys; sys.executable = '{python}'; from tdabench.cli import main; sys.exit(main())"
    python.write_bytes(Path(sys.executable).read_bytes())
    command = COMMAND.replace("tdabench dataset", f'{sys.executable} -c "{prefix}" dataset')

    assert owner.run("raise ValueError('alone')", command) == 1

    assert "tdabench dataset: alone" in owner.errors()
    assert not owner.was_forked()


def test_no_server_where_there_is_a_gpu(monkeypatch, tmp_path):
    monkeypatch.delenv("TDABENCH_FORKSERVER", raising=False)
    monkeypatch.setattr(forkserver, "GPUS", (str(tmp_path),))

    assert forkserver.start() is None
    assert "TDABENCH_FORKSERVER" not in os.environ


@pytest.mark.parametrize("name", ["ü" * 50, "x" * 120], ids=["long in bytes", "long"])
def test_no_server_where_its_address_is_too_long(monkeypatch, tmp_path, name):
    (tmp_path / name).mkdir()
    monkeypatch.delenv("TDABENCH_FORKSERVER", raising=False)
    monkeypatch.setattr(forkserver, "GPUS", ())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))

    assert forkserver.start() is None
    assert "TDABENCH_FORKSERVER" not in os.environ
    assert list((tmp_path / name).iterdir()) == []


@pytest.mark.parametrize("stage", ["measure", "plan"])
def test_what_measures_costs_is_not_forked(monkeypatch, stage):
    monkeypatch.setattr(forked, "_descends_from", lambda ancestor: pytest.fail("it would be forked"))
    monkeypatch.setenv("TDABENCH_FORKSERVER", f"{os.getppid()}:/nowhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    assert forked.run_in_fork([stage, "experiment"]) is None
