from __future__ import annotations

import subprocess
import sys

COUNT = """
import sys
from pathlib import Path
from jaxmss.locking import one_process_at_a_time
count = Path(sys.argv[1])
for _ in range(200):
    with one_process_at_a_time(count.with_name("lock")):
        count.write_text(str(int(count.read_text()) + 1))
"""


def test_processes_count_without_a_loss_and_leave_no_lock(tmp_path):
    (tmp_path / "count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, tmp_path / "count"]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "800"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]
