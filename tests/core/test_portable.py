"""The package imports where the system is not a Unix: no module needs what Windows does not have."""

import subprocess
import sys

BLOCKED = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "nis", "crypt", "readline")
"""Modules that Python has on Unix only."""
ABSENT = (
    *("fork", "register_at_fork", "pread", "pwrite", "statvfs", "fstatvfs", "getuid", "geteuid", "getgid", "getpgid"),
    *("killpg", "mkfifo", "sysconf", "uname", "sched_getaffinity", "nice", "chown", "lchown", "fchmod", "setsid"),
    *("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "WNOHANG", "wait", "getloadavg"),
)
"""What `os` has on Unix only."""
IMPORTED = (
    "asyncio filelock huggingface_hub jinja2 multiprocessing rich.console scipy.sparse tempfile torch transformers"
)
PROGRAM = f"""
import importlib, os, pkgutil, sys
for name in {IMPORTED.split()}:  # others' modules may use what they find on this system
    importlib.import_module(name)
for name in {BLOCKED}:
    sys.modules[name] = None
taken = {{{{name: vars(os).pop(name) for name in {ABSENT} if hasattr(os, name)}}}}
import polyseme
names = [module.name for module in pkgutil.walk_packages(polyseme.__path__, "polyseme.")]
names = [name for name in names if not name.endswith("__main__") and "._kernels" not in name]
assert len(names) > 200, names
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name in ("triton", "matplotlib", "pyarrow", "datasets"), (name, error)
print(len(names))
{{0}}
"""
WORK = """
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "WNOHANG", "geteuid", "fchmod", "statvfs"):
    vars(os)[name] = taken[name]  # what filelock and the standard library use on this system
from pathlib import Path
from polyseme.core.memory import available_memory, peak_memory
from polyseme.store import Run, Store, append_line, load_json, save_json
root = Path(sys.argv[1])
def make(folder): save_json(folder / "a.json", 1)
assert Store(root).stage("a", {}, {}, make, lambda made: made.json("a.json"))[1] == 1
run = Run.open(root, "demo", {})
with run.working():
    append_line(run.path / "events.jsonl", "{}")
assert run.record.status == "complete" and peak_memory() > 0 and available_memory() > 0
"""


def test_every_module_imports_without_what_only_unix_has(tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(WORK), str(tmp_path / "runs")], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) > 200
