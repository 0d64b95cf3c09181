from pathlib import Path

import pytest

from edgeseed.runtime.agent import job_file
from edgeseed.runtime.devices.host import HostDevice


def agent(work: Path, source: str) -> Path:
    (work / job_file.AGENT).write_text(source)
    return work


def test_lines_come_as_they_are_printed_and_stderr_is_kept(tmp_path: Path) -> None:
    source = "import sys\nprint('one')\nprint('two')\nsys.stderr.write('oh')\nsys.exit(3)\n"
    lines: list[str] = []

    ended = HostDevice().run_agent(agent(tmp_path, source), on_line=lines.append)

    assert [line.strip() for line in lines] == ["one", "two"]
    assert (ended.exit_code, ended.stderr) == (3, "oh")


def test_the_agent_is_told_its_work_folder(tmp_path: Path) -> None:
    lines: list[str] = []

    HostDevice().run_agent(agent(tmp_path, "import sys; print(sys.argv[1])"), on_line=lines.append)

    assert lines == [f"{tmp_path}\n"]


def test_an_interrupted_call_leaves_no_process_behind(tmp_path: Path) -> None:
    source = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n"
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        HostDevice().run_agent(agent(tmp_path, source), on_line=interrupt)

    assert not Path(f"/proc/{pids[0]}").exists()
