"""A real Slurm of one node, this machine, as long as a test needs it; Debian's packages, run as root, no accounting."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CONFIGURATION = Path("/etc/slurm/slurm.conf")  # a job step drops SLURM_CONF: only here does everybody look
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sinfo", "sbatch", "srun")
SLURM_CONF = """\
ClusterName=tdabench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
AccountingStorageType=accounting_storage/none
# Nothing here needs control groups, which a container may not have: Slurm itself watches the memory, every second,
# and kills what exceeds its request.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2
GresTypes=gpu
# A node that is set down stays down until it is resumed, however soon it answers.
ReturnToService=1
MpiDefault=none
KillWait=2
# A job whose node went down is Snakemake's to send again, unless it asks Slurm; then within seconds, not minutes.
JobRequeue=0
AuthInfo=cred_expire=5
# What a killed job was is known for as long: squeue is asked, since there is no sacct.
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={megabytes} Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
# Two devices, each for one job at a time; any two files that are there will do.
GRES_CONF = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


class NoCluster(Exception):
    """What this machine lacks, and how to get it."""


@contextlib.contextmanager
def running_cluster(folder: Path, *, install: bool) -> Iterator[None]:
    """Run munge, slurmctld and slurmd until the block is left; jobs that are left then are killed.

    Args:
        folder: For the daemons' state and logs.
        install: Whether packages that are missing may be installed.

    Raises:
        NoCluster: If there are no packages, no rights, or a Slurm that isn't ours.
    """
    if os.geteuid() != 0:
        raise NoCluster("a Slurm of one's own needs root")
    if CONFIGURATION.exists():
        raise NoCluster(f"there is {CONFIGURATION} already: another Slurm, or one that was killed; remove it if so")
    _provide_programs(install)
    with contextlib.ExitStack() as stack:
        _start_munge(folder, stack)
        _configure(folder, stack)
        stack.enter_context(_daemon(["slurmctld", "-D", "-c"], folder))
        stack.enter_context(_daemon(["slurmd", "-D"], folder))
        stack.callback(_cancel_all)
        _wait_until(lambda: say("sinfo", "--noheader", "--format=%T") == "idle", "the node to be idle", folder)
        yield


def say(*command: str) -> str:
    """Return what a command says, without its last newline; nothing if it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _provide_programs(install: bool) -> None:
    os.environ["PATH"] = os.pathsep.join(dict.fromkeys([*os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/sbin"]))
    if all(shutil.which(program) for program in PROGRAMS):
        return
    if install and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        get = ["apt-get", "--quiet=2"]
        subprocess.run([*get, "update"], env=environment, check=False)  # an old list may do
        packages = ["slurm-wlm", "munge"]
        subprocess.run([*get, "install", "--yes", "--no-install-recommends", *packages], env=environment, check=False)
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        raise NoCluster(f"{', '.join(missing)} missing: apt-get install slurm-wlm munge")


def _start_munge(folder: Path, stack: contextlib.ExitStack) -> None:
    if say("munge", "--no-input"):
        return  # the machine's own
    owner = pwd.getpwnam("munge")
    for place in ("/run/munge", "/var/lib/munge", "/var/log/munge", "/etc/munge"):
        Path(place).mkdir(mode=0o755 if place == "/run/munge" else 0o700, exist_ok=True)
        os.chown(place, owner.pw_uid, owner.pw_gid)
    if not Path("/etc/munge/munge.key").exists():
        subprocess.run(["mungekey", "--create"], user="munge", group="munge", check=True)
    stack.enter_context(_daemon(["munged", "--force", "--foreground"], folder, user="munge"))
    _wait_until(lambda: bool(say("munge", "--no-input")), "munge to answer", folder)


def _configure(folder: Path, stack: contextlib.ExitStack) -> None:
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    host = socket.gethostname().split(".")[0]
    text = SLURM_CONF.format(host=host, folder=folder, cpus=os.cpu_count(), megabytes=megabytes)
    for name, content in (("slurm.conf", text), ("gres.conf", GRES_CONF)):
        path = CONFIGURATION.with_name(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        stack.callback(path.unlink)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()


@contextlib.contextmanager
def _daemon(command: list[str], folder: Path, user: str | None = None) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, user=user, group=user)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _cancel_all() -> None:
    subprocess.run(["scancel", "--signal=KILL", "--full", f"--user={pwd.getpwuid(os.geteuid()).pw_name}"], check=False)
    deadline = time.monotonic() + 10
    while say("squeue", "--noheader") and time.monotonic() < deadline:
        time.sleep(0.2)
    for environment in Path("/proc").glob("[0-9]*/environ"):  # a Snakemake whose node went down outlives its job
        with contextlib.suppress(OSError):
            if b"SLURM_CLUSTER_NAME=tdabench\0" in environment.read_bytes():
                os.kill(int(environment.parent.name), signal.SIGKILL)


def _wait_until(ready: Callable[[], bool], what: str, folder: Path) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text(errors="replace")[-1000:] for path in folder.glob("*.[lo][ou][gt]"))
            raise NoCluster(f"waited 30 s for {what}: {logs}")
        time.sleep(0.1)
