"""Evaluate LoRAT with the VOT toolkit on local clips, by both of its protocols, and check that it worked.

    python run_example.py CLIPS WORKSPACE [--weights FILE]

CLIPS holds one folder for each clip: frames (.jpg or .png) and groundtruth.txt with a line x,y,w,h for each frame.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path

TRACKERS = ["LoRATPython", "LoRATTraX"]


def run(program: str, *arguments: str) -> str:
    """Run a program of this Python environment, show what it prints and return it."""
    executable = Path(sysconfig.get_path("scripts")) / program
    print(f"$ {program} {' '.join(arguments)}", flush=True)
    process = subprocess.run([executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(process.stdout, flush=True)
    if process.returncode:
        sys.exit(process.returncode)
    return process.stdout


def main() -> None:
    """Make the workspace, evaluate, analyse, report."""
    parser = argparse.ArgumentParser(description="Evaluate LoRAT with the VOT toolkit on local clips.")
    parser.add_argument("clips", type=Path)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--weights", help="weights file; the bundled ones of lorat_tiny if left out")
    options = parser.parse_args()
    weights = ["--weights", options.weights] if options.weights else []
    place = ["--workspace", str(options.workspace)]

    run("lorat", "vot", "init", str(options.workspace), "--sequences", str(options.clips), *weights)
    printed = run("vot", "evaluate", *place, *TRACKERS)
    if "Evaluation concluded" not in printed:  # the exit code is 0 even if the tracker failed
        sys.exit("The evaluation failed: see above, and the newest file in the workspace's folder logs")
    run("vot", "analysis", *place, "--name", "example")
    run("vot", "report", *place, "--name", "example")
    print(f"Results, analysis and report are in {options.workspace}")


if __name__ == "__main__":
    main()
