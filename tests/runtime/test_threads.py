"""How many threads a process may use, from trees like those that containers show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxc.runtime.threads import default_threads

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tree(root: Path, membership: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": membership, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def plenty(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)


@pytest.mark.parametrize(("limit", "threads"), [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2),
                                                ("10000 100000", 1), ("1000000 10000", 64), ("", 64), ("nonsense", 64),
                                                ("5 0", 64), ("-1 100000", 64), ("300000 100000\n", 3)])
def test_version_2_quotas_are_rounded_up(tmp_path, plenty, limit, threads):
    assert default_threads(tree(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": limit})) == threads


def test_the_strictest_group_on_the_way_up_counts(tmp_path, plenty):
    root = tree(tmp_path, "0::/slice/pod/box\n", {"sys/fs/cgroup/slice/cpu.max": "300000 100000",
                                                  "sys/fs/cgroup/slice/pod/box/cpu.max": "800000 100000",
                                                  "sys/fs/cgroup/other/cpu.max": "100000 100000"})
    assert default_threads(root) == 3


def test_paths_outside_the_mount_are_not_followed(tmp_path, plenty):
    root = tree(tmp_path, "0::/../../up\n", {"sys/fs/cgroup/cpu.max": "400000 100000",
                                             "sys/up/cpu.max": "100000 100000"})
    assert default_threads(root) == 4


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize("group", ["", "docker/abc/"])
def test_version_1_quotas(tmp_path, plenty, mount, group):
    base = f"sys/fs/cgroup/{mount}/{group}"
    root = tree(tmp_path, "11:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
                {f"{base}cpu.cfs_quota_us": "250000\n", f"{base}cpu.cfs_period_us": "100000\n"})
    assert default_threads(root) == 3
    (root / f"{base}cpu.cfs_quota_us").write_text("-1\n")
    assert default_threads(root) == 64


@pytest.mark.parametrize("membership", ["", "garbage", "0::", "\n\n", "a:b", "4:cpu,cpuacct:"])
def test_unreadable_memberships_do_not_limit(tmp_path, plenty, membership):
    assert default_threads(tree(tmp_path, membership, {})) == 64


def test_affinity_limits(tmp_path):
    assert default_threads(tmp_path) == PROCESSORS
    assert 1 <= default_threads() <= PROCESSORS


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
def test_a_pinned_process_uses_one_thread():
    script = ("import os, sys\n"
              f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
              "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
              "from onnxc.runtime.threads import default_threads\n"
              "print(default_threads())")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "1"
