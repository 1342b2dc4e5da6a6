"""Run LoRAT on OTB with the GOT-10k toolkit, without a network.

python run_otb.py OTB --version 2015
"""

import argparse
from pathlib import Path

from got10k.datasets import OTB
from got10k.experiments import ExperimentOTB

from lorat_plugin.harness.got10k import TrackerLoRAT


class LocalOTB(ExperimentOTB):
    """ExperimentOTB downloads every sequence that is missing; this one takes those that are there."""

    def __init__(self, root: Path, version: int | str, out: Path) -> None:
        self.dataset = OTB(str(root), version, download=False)
        self.result_dir = str(out / "results" / f"OTB{version}")
        self.report_dir = str(out / "reports" / f"OTB{version}")
        self.nbins_iou, self.nbins_ce = 21, 51


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("root", type=Path, help="folder with Basketball/, Bolt/ ...")
parser.add_argument("--version", default="2015", help="2013, 2015, tb50 or tb100")
parser.add_argument("--model", default="lorat_tiny")
parser.add_argument("--weights")
parser.add_argument("--out", type=Path, default=Path("otb_results"))
args = parser.parse_args()

tracker = TrackerLoRAT(model=args.model, weights=args.weights)
experiment = LocalOTB(args.root, int(args.version) if args.version.isdigit() else args.version, args.out.resolve())
experiment.run(tracker)
overall = experiment.report([tracker.name])[tracker.name]["overall"]
print(f"success {overall['success_score']:.3f}  precision {overall['precision_score']:.3f}")
