"""Run LoRAT on LaSOT with the interface of the GOT-10k toolkit.

python run_lasot.py LaSOTBenchmark
python run_lasot.py LaSOTBenchmark --sequences airplane-1 dog-7
"""

import argparse
from pathlib import Path

from lorat_plugin.evaluation import ExperimentLaSOT
from lorat_plugin.harness.got10k import TrackerLoRAT

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("root", type=Path, help="folder with airplane/airplane-1/ ... or airplane-1/ ...")
parser.add_argument("--subset", choices=("test", "train"), default="test")
parser.add_argument("--sequences", nargs="+", help="these instead of the subset")
parser.add_argument("--model", default="lorat_tiny")
parser.add_argument("--weights")
parser.add_argument("--out", type=Path, default=Path("lasot_results"))
args = parser.parse_args()

tracker = TrackerLoRAT(model=args.model, weights=args.weights)
experiment = ExperimentLaSOT(
    args.root,
    subset=args.subset,
    result_dir=args.out / "results",
    report_dir=args.out / "reports",
    sequences=args.sequences,
)
experiment.run(tracker)
overall = experiment.report([tracker.name])[tracker.name]["overall"]
print(
    f"success {overall['success_score']:.3f}  precision {overall['precision_score']:.3f}"
    f"  normalised precision {overall['normalized_precision_score']:.3f}"
)
