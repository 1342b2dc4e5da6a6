"""Run LoRAT on GOT-10k's val or test subset with the GOT-10k toolkit.

python run_got10k.py GOT-10k --subset val
"""

import argparse
from pathlib import Path

from got10k.experiments import ExperimentGOT10k

from lorat_plugin.harness.got10k import TrackerLoRAT

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("root", type=Path, help="folder with val/ or test/, each with a list.txt")
parser.add_argument("--subset", choices=("val", "test"), default="val")
parser.add_argument("--model", default="lorat_tiny")
parser.add_argument("--weights")
parser.add_argument("--out", type=Path, default=Path("got10k_results"))
args = parser.parse_args()

tracker = TrackerLoRAT(model=args.model, weights=args.weights)
out = args.out.resolve()  # absolute: the toolkit changes the working folder while it packs a test submission
experiment = ExperimentGOT10k(  # keywords only: the order of arguments differs between releases
    root_dir=str(args.root), subset=args.subset, result_dir=str(out / "results"), report_dir=str(out / "reports")
)
experiment.run(tracker)
performance = experiment.report([tracker.name])  # for test it packs the zip for the server and returns None
if performance is not None:
    overall = performance[tracker.name]["overall"]
    curve = overall["succ_curve"]
    print(f"AO {overall['ao']:.3f}  SR0.5 {overall['sr']:.3f}  SR0.75 {curve[75]:.3f}")
    print(f"{overall['speed_fps']:.1f} frames/s")
