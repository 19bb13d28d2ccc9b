"""In which order workers take the files of tests."""

from __future__ import annotations

import re

#: Files with a few tests that take long. pytest-xdist begins with the files that have most tests, and in the end one
#: worker would run these while the others have nothing to do.
LONG = ("test_pretended_processes.py", "test_segmentation.py", "test_full_size.py", "test_verify.py",
        "test_rehearsal.py", "test_gpu_command.py", "test_bench_full_size.py", "test_toyworld_editor.py",
        "test_toyworld_flow_editor.py")  # fmt: skip
#: All files that drive the editor, as one: a server and a browser serve them.
EDITOR = "editor"
DRIVES = re.compile(r"import frontend|def \w+\(opened\b")


def by_file(config, log):
    """A scheduler of pytest-xdist: a file's tests stay together, those that take long come first."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return EDITOR if DRIVES.search((config.rootpath / file).read_text(encoding="utf-8")) else file

        def _assign_work_unit(self, node) -> None:
            if (first := next(filter(begun_first, self.workqueue), None)) is not None:
                self.workqueue.move_to_end(first, last=False)
            super()._assign_work_unit(node)

    return ByFile(config, log)


def begun_first(scope: str) -> bool:
    return scope == EDITOR or scope.endswith(LONG)
