#!/usr/bin/env bash
# All that this repository wants to know of a CUDA GPU, in one go and without a network: the tests that need one, the
# speed of networks, of tracking and of training, and then training of lorat_tiny for the rest of the time.
#
#   tools/on_gpu.sh [--cpu] [--seconds 640] [--material FOLDER] [--recipe FILE] [--start STATE] OUT [WHEELS]
#
# OUT gets, as they come: gpu.json (docs/benchmarks/gpu.json), run.log, train.jsonl, and the newest training state in
# parts of 15 MB (`cat state.safetensors.* > state.safetensors`, whose SHA-256 is in state.sha256). A run that is killed
# keeps what is there.
#
# WHEELS is a folder of wheels of packages that the machine's python3 ($PYTHON) lacks. Needed beside torch and
# torchvision: accelerate av huggingface_hub hypothesis jinja2 matplotlib numpy opencv-python-headless packaging peft pillow
# pytest pyyaml rich safetensors filelock tensorboard timm typer; seldom there and small: lmdb supervision defusedxml.
#
# FOLDER ($MATERIAL) may hold cutouts, photos, stills (COCO's layout), clips (or video_train, video_train2) and labels;
# what is absent is made up. Of this repository it takes lorat_plugin, integration, tests, tools, setup.cfg, and of
# weights all but lorat_tiny.safetensors. --cpu tries every part on a CPU, in small: its numbers mean nothing.
set -uo pipefail

fail() {
    echo "on_gpu.sh: $1" >&2
    exit 2
}

repository=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3} device=cuda total=640 material=${MATERIAL:-} start="" recipe=$repository/weights/tiny_real.yaml
while [[ ${1:-} == --* ]]; do
    case $1 in
        --cpu) device=cpu && shift && continue ;;
        --seconds) total=${2:-} ;;
        --material) material=${2:-} ;;
        --recipe) recipe=${2:-} ;;
        --start) start=${2:-} ;;
        *) fail "unknown option $1: use --cpu, --seconds, --material, --recipe or --start" ;;
    esac
    [[ -n ${2:-} ]] || fail "$1 needs a value"
    shift 2
done
[[ $# == 1 || $# == 2 ]] || fail "usage: tools/on_gpu.sh [options] OUT [WHEELS]"
[[ $total =~ ^[0-9]+$ ]] || fail "--seconds must be a whole number; got $total"
for folder in "$material" "${2:-}"; do
    [[ -z $folder || -d $folder ]] || fail "$folder is no folder"
done
for file in "$recipe" "$start"; do
    [[ -z $file || -e $file ]] || fail "$file does not exist"
done
mkdir -p "$1" || fail "$1 cannot be made"
out=$(cd "$1" && pwd)
work=$(mktemp -d)
children=""
trap 'kill $children 2>/dev/null; rm -rf "$work"' EXIT
log=$out/run.log
: >"$log"
say() { echo "[$SECONDS s] $1" | tee -a "$log"; }

# the package without installing it: its folder, and the two folders that its distribution adds to it
mkdir -p "$work/site/lorat_plugin" "$work/cache"
ln -s "$repository"/lorat_plugin/* "$work/site/lorat_plugin/"
ln -s "$repository/weights" "$work/site/lorat_plugin/weights"
ln -s "$repository/integration/pytracking" "$work/site/lorat_plugin/pytracking_files"
if [[ -n ${2:-} ]]; then
    "$python" -m pip install --quiet --no-index --no-deps --find-links "$2" --target "$work/wheels" "$2"/*.whl \
        >>"$log" 2>&1 || fail "the wheels in $2 cannot be installed: see $log"
fi
export PYTHONPATH=$work/site:$repository:$work/wheels LORAT_CACHE=$work/cache MPLBACKEND=Agg PYTHONUNBUFFERED=1
export PYTHONPYCACHEPREFIX=$work/compiled HF_HUB_OFFLINE=1
"$python" -c "import lorat_plugin.cli.main, torch; assert '$device' == 'cpu' or torch.cuda.is_available()" \
    >>"$log" 2>&1 || fail "$python cannot import the package, or sees no GPU: see $log, and give WHEELS or --cpu"
lorat=("$python" -m lorat_plugin)

# keep NAME CODE SECONDS FILE: one result into gpu.json, which is replaced as a whole
keep() {
    "$python" - "$out/gpu.json" "$@" <<'PYTHON'
import json, os, sys
from pathlib import Path

target, name, code, seconds, file = sys.argv[1:]
path = Path(target)
found = json.loads(path.read_text()) if path.exists() else {}
text = Path(file).read_text(errors="replace")
try:
    result = json.loads(text)
except ValueError:
    rows = [json.loads(line) for line in text.splitlines() if line.startswith('{"step"')]
    result = rows or text[-2000:]
found[name] = {"exit": int(code), "seconds": int(seconds), "result": result}
part = path.with_suffix(".part")
part.write_text(json.dumps(found, indent=1) + "\n")
os.replace(part, path)
PYTHON
}

# part NAME LIMIT COMMAND...: run a part for at most LIMIT seconds and keep what it wrote
part() {
    local name=$1 limit=$2 began=$SECONDS code file=$work/result
    shift 2
    [[ $device == cpu ]] && limit=$((limit * 10)) # for machines that are busy with other things
    ((limit > total - SECONDS)) && limit=$((total - SECONDS))
    ((limit < 5)) && say "$name: no time left" && return
    timeout --kill-after=5 "$limit" "$@" >"$file" 2>>"$log"
    code=$?
    [[ -s $work/run_$name/log.jsonl ]] && file=$work/run_$name/log.jsonl
    keep "$name" "$code" $((SECONDS - began)) "$file"
    say "$name: exit code $code"
}

if [[ $device == cuda ]]; then
    b=lorat_b_224 l=lorat_l_224 g=lorat_g_378 batch=128 giant=16 several=1,32 rounds=5 steps=30 frames=100 bank=60
    fast=autocast,eager,compiled baseline=autocast modes=full,lora workers=$(($(nproc) > 3 ? $(nproc) - 2 : 1)) precision=bf16
else
    b=lorat_tiny l=lorat_tiny g=lorat_tiny batch=4 giant=1 several=1 rounds=1 steps=2 frames=3 bank=1
    fast=eager baseline=eager modes=lora workers=0 precision=fp32
fi

# a) tests
part tests 100 "$python" -m pytest -q -p no:cacheprovider --rootdir "$repository" "$repository/tests/test_cuda.py" \
    "$repository/tests/engines/test_compiled.py" -k "cuda or gpu"

# b) speed
part networks 120 "${lorat[@]}" benchmark model --model "$b,$l" --batch "$several" --engine "$fast" --precision auto \
    --baseline "$baseline" --rounds "$rounds" --no-memory --device "$device" --json
for model in $(printf "%s\n" "$b" "$l" | sort -u); do
    part "track_$model" 45 "${lorat[@]}" benchmark track --model "$model" --engine "$fast" --baseline "$baseline" \
        --frames "$frames" --rounds 2 --decoded --device "$device" --json
    part "step_$model" 60 "${lorat[@]}" benchmark train --variant "$model" --batch "$batch" --modes "$modes" \
        --baseline "${modes%%,*}" --rounds "$rounds" --precision "$precision" --device "$device" --json
done
part "step_${g}_giant" 90 "${lorat[@]}" benchmark train --variant "$g" --batch "$giant" --modes lora --baseline lora \
    --rounds 2 --precision "$precision" --device "$device" --json
"$python" -c "from pathlib import Path; from lorat_plugin.speed.rounds import write_clips
write_clips(Path('$work/made'), (1280, 720) if '$device' == 'cuda' else (160, 90), clips=8, frames=20)" 2>>"$log"
for place in bank stream; do # pairs/s of whole training, to be set beside the step alone
    part "data_$place" 60 "${lorat[@]}" train --recipe paper --variant "$b" --set backbone=random \
        --dataset "clips:$work/made" --steps "$steps" --batch-size "$batch" --precision "$precision" --device "$device" \
        --workers "$workers" --set pairs_on=device --set "bank_gb=$([[ $place == bank ]] && echo "$bank" || echo 0)" \
        --set validation_datasets= --set validation_pairs=8 --set log_every=5 --set loggers= --set checkpoint_every=100000 \
        --out "$work/run_data_$place"
done

# c) training for the rest of the time
run=$work/run_training
save_state() { # the newest checkpoint and the log into OUT; parts first, so that no old and new ones stand together long
    local newest
    newest=$(find "$run/checkpoints" -name state.safetensors 2>/dev/null | sort | tail -n 1)
    [[ -s $run/log.jsonl ]] && cp "$run/log.jsonl" "$work/train.jsonl" && mv "$work/train.jsonl" "$out/train.jsonl"
    [[ -n $newest && $newest != "$(cat "$work/saved" 2>/dev/null)" ]] || return 0
    rm -rf "$work/parts" && mkdir "$work/parts"
    cp "$newest" "$work/state.safetensors" && split -b 15000000 -d "$work/state.safetensors" \
        "$work/parts/state.safetensors." || return 0
    (cd "$work" && sha256sum state.safetensors >parts/state.sha256)
    rm -f "$out"/state.safetensors.*
    mv "$work/parts"/* "$out/"
    echo "$newest" >"$work/saved"
}
given=()
if [[ -n $material ]]; then
    for kind in cutouts photos; do
        [[ -d $material/$kind ]] && given+=("--$kind" "$material/$kind")
    done
    [[ -d $material/stills ]] && given+=(--dataset "coco:$material/stills")
    mkdir "$work/clips"
    for clip in "$material"/{clips,video_train,video_train2}/*/; do
        [[ -f $clip/groundtruth.txt ]] && ln -s "$(cd "$clip" && pwd)" "$work/clips/$(basename "$clip")"
    done
    labels=$material/labels
    [[ -d $labels ]] || labels=$repository/weights/labels
    [[ -n $(ls "$work/clips") ]] && given+=(--clips "$work/clips" --clip-labels "$labels")
fi
[[ " ${given[*]} " == *" --clips "* ]] || given+=(--set clip_weight=0)
[[ -n $start ]] && given+=(--init-from "$start")
backbone=$repository/weights/lora/dinov2_vits14_6blocks.safetensors
[[ -f $backbone ]] || backbone=random
if [[ $device == cuda ]]; then
    given+=(--steps 1000000 --batch-size 256 --set checkpoint_every=200 --set log_every=50 --set bank_gb="$bank")
else
    given+=(--steps 4 --batch-size 4 --set checkpoint_every=2 --set log_every=1 --set validation_pairs=4
        --set bank_gb="$bank")
fi
(while sleep 10; do save_state; done) &
children=$!
part training $((total - SECONDS - 8)) "${lorat[@]}" train --recipe "$recipe" --backbone "$backbone" --device "$device" \
    --precision "$precision" --workers "$workers" --threads 0 --set pairs_on=device --set compile=false \
    --set validate_every=100000 --set loggers= "${given[@]}" --out "$run"
kill "$children" && wait "$children" 2>/dev/null
save_state
say "done"
