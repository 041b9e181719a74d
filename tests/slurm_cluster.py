"""A whole SLURM cluster of one node on this machine, in a folder of its own: for the tests, and to try things out.

    python tests/slurm_cluster.py start FOLDER      prints what to export, so that sbatch and squeue find it
    python tests/slurm_cluster.py stop FOLDER

It runs slurmctld, slurmd and munged (Debian: apt-get install slurm-wlm munge) as whoever starts it, on the loopback
address and free ports, and touches nothing outside its folder. The node pretends to have two CPUs.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
DAEMONS = ("slurmd", "slurmctld", "munged")
NODE = "localhost"

CONF = """\
ClusterName=roadmap
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
# A credential is good for 5 seconds: a requeued job starts after that time, not after two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=0,sched_min_interval=0,requeue_setup_env_fail
JobRequeue=1
KillWait=5
MinJobAge=5
ReturnToService=2
SlurmdTimeout=10
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
NodeName={node} NodeAddr=127.0.0.1 NodeHostname={host} CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=graceful Nodes={node} MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes={node} MaxTime=INFINITE State=UP PriorityTier=2
"""


def missing() -> list[str]:
    """The programs that a cluster needs and this machine lacks."""
    return [name for name in PROGRAMS if not _program(name)]


def start(folder: Path) -> dict[str, str]:
    """Start a cluster in an empty folder. Returns the environment in which its commands find it.

    Raises:
        RuntimeError: if a daemon does not come up.
    """
    folder = folder.resolve()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    controller_port, node_port = _free_ports(2)
    (folder / "slurm.conf").write_text(
        CONF.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            node=NODE,
            user=getpass.getuser(),
            controller_port=controller_port,
            node_port=node_port,
        )
    )
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    try:
        _launch(
            *("munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"),
            *(
                f"--pid-file={folder}/munged.pid",
                f"--log-file={folder}/munged.log",
                f"--seed-file={folder}/munged.seed",
            ),
        )
        start_controller(folder)
        start_node(folder)
        _wait(lambda: "idle" in _ask(environment, "sinfo", "-h", "-o", "%t"), "the node did not become idle", folder)
    except BaseException:
        stop(folder)
        raise
    return environment


def start_controller(folder: Path) -> None:
    _launch("slurmctld", "-f", f"{folder}/slurm.conf", cwd=folder)


def start_node(folder: Path) -> None:
    _launch("slurmd", "-f", f"{folder}/slurm.conf", "-N", NODE, cwd=folder)


def stop(folder: Path) -> None:
    """End every job and daemon of the cluster in a folder."""
    if _pid(folder / "slurmctld.pid"):
        environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        _ask(environment, "scancel", "--me", "--signal=KILL", "--full")
        _ask(environment, "scancel", "--me")
        with suppress(RuntimeError):
            _wait(lambda: not _ask(environment, "squeue", "-h").strip(), "jobs are left", folder, seconds=10)
    for name in DAEMONS:
        end(folder, name, signal.SIGTERM)


def end(folder: Path, name: str, number: int = signal.SIGKILL) -> None:
    """Send a daemon a signal, and wait until it is gone."""
    pid = _pid(folder / f"{name}.pid")
    if pid is None:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    _wait(lambda: not _alive(pid), f"{name} does not end", folder)


def _program(name: str) -> str | None:
    """Debian puts daemons where a user's PATH does not look."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")


def _launch(name: str, *arguments: str, cwd: Path | None = None) -> None:
    """A daemon, which goes to the background by itself."""
    done = subprocess.run([_program(name) or name, *arguments], capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        raise RuntimeError(f"{name} does not start: {(done.stderr or done.stdout).strip()}")


def _ask(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment).stdout


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _pid(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(condition, otherwise: str, folder: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(
                f"{log.name}: {line}" for log in folder.glob("*.log") for line in log.read_text().splitlines()[-5:]
            )
            raise RuntimeError(f"{otherwise}\n{logs}")
        time.sleep(0.1)


def main() -> None:
    match sys.argv[1:]:
        case ["start", folder]:
            if missing():
                sys.exit(f"error: {', '.join(missing())} not found; on Debian: apt-get install slurm-wlm munge")
            for name, value in start(Path(folder)).items():
                print(f"export {name}={value}")
        case ["stop", folder]:
            stop(Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
