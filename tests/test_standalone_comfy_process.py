"""The ComfyUI that a run started ends with the run, however that ends. A small server stands for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SERVER = '''
import http.server, json, os, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"pid": os.getpid()}).encode())
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
'''
# A test run that itself ignores a signal (nohup, a job in the background) hands that on to what it starts.
RUN = '''
import json, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from steadyedit.standalone import comfy_process
comfy_process._has_gpu = lambda python: True
with comfy_process.running(Path(sys.argv[1]), Path(sys.argv[2])) as host:
    print(json.dumps({"pid": host.ask("/system_stats")["pid"], "base": str(host.input.parent)}), flush=True)
    time.sleep(60)
'''


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("kind", ["SIGTERM", "SIGHUP", "SIGKILL", "SIGINT"])
def test_the_host_ends_with_the_run(tmp_path, kind):
    (tmp_path / "main.py").write_text(SERVER)
    run = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), str(tmp_path / "out")], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True, env={**os.environ, "COMFYUI_PYTHON": sys.executable})
    told = json.loads(run.stdout.readline())
    assert is_alive(told["pid"]) and Path(told["base"]).is_dir()
    run.send_signal(getattr(signal, kind))
    run.wait(30)
    end = time.monotonic() + 30
    while (is_alive(told["pid"]) or Path(told["base"]).exists()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(told["pid"]) and not Path(told["base"]).exists()
