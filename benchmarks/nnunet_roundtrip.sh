#!/usr/bin/env bash
# nnU-Net and crossd, there and back, on the CPU: a data set in nnU-Net's format, its plans, 2D
# training by crossd, its weights into nnU-Net's own training, the trained network back into crossd.
#
#   benchmarks/nnunet_roundtrip.sh DATA OUT
#
# DATA has images/*.nii.gz and labels/*.nii.gz with the labels 1 and 2 (the hippocampus of the Medical
# Segmentation Decathlon); OUT is a new folder. CASES (16) volumes are trained on, and 4 predicted.
# The last line tells the share of voxels to which both predictors give the same class; it is an
# error if that is less than 0.99. Needs pip install 'crossd[all,nnunet]'; PYTHON names the
# interpreter.
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,13p' "$0"; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=$(cd "$1" && pwd); out=$2; cases=${CASES:-16}
python=${PYTHON:-python}
bin=$(dirname "$("$python" -c 'import sys; print(sys.executable)')")
[ ! -e "$out" ] || { echo "$out is there already: name a new folder" >&2; exit 2; }
mkdir -p "$out"; out=$(cd "$out" && pwd)
export nnUNet_raw=$out/raw nnUNet_preprocessed=$out/preprocessed nnUNet_results=$out/results
export nnUNet_extTrainer=$here/nnunet nnUNet_n_proc_DA=1 nnUNet_compile=f
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} CROSSD_NNUNET_STEPS=${CROSSD_NNUNET_STEPS:-8}
step() { echo; echo "== $*"; "$@"; }
name=Dataset901_Roundtrip; raw=$nnUNet_raw/$name
mkdir -p "$raw/imagesTr" "$raw/labelsTr" "$raw/imagesTs"
count=0
for file in "$data"/images/*.nii.gz; do
  case=$(basename "$file" .nii.gz)
  if [ $count -lt "$cases" ]; then
    cp "$file" "$raw/imagesTr/${case}_0000.nii.gz"; cp "$data/labels/$case.nii.gz" "$raw/labelsTr/"
  elif [ $count -lt $((cases + 4)) ]; then
    cp "$file" "$raw/imagesTs/${case}_0000.nii.gz"
  fi
  count=$((count + 1))
done
cat > "$raw/dataset.json" <<EOF
{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "anterior": 1, "posterior": 2},
 "numTraining": $cases, "file_ending": ".nii.gz"}
EOF
step "$python" "$here/nnunet/one_thread.py" "$bin/nnUNetv2_plan_and_preprocess" -d 901 -c 3d_fullres -npfp 1 -np 1
plans=nnunet:$nnUNet_preprocessed/$name/nnUNetPlans.json
step "$bin/crossd" pretrain --data "$raw" --model "$plans" --epochs "${EPOCHS:-2}" --out "$out/2d"
step "$bin/crossd" convert --weights "$out/2d/weights.safetensors" --to nnunet --out "$out/start.pth"
step "$python" "$here/nnunet/one_thread.py" "$bin/nnUNetv2_train" 901 3d_fullres 0 -tr nnUNetTrainerShort -device cpu \
  -pretrained_weights "$out/start.pth"
step "$python" "$here/nnunet/one_thread.py" "$bin/nnUNetv2_predict" -i "$raw/imagesTs" -o "$out/theirs" -d 901 -c 3d_fullres -f 0 \
  -tr nnUNetTrainerShort -device cpu --disable_tta -npp 1 -nps 1
trained=$nnUNet_results/$name/nnUNetTrainerShort__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth
step "$bin/crossd" convert --weights "$trained" --model "$plans" --out "$out/back.safetensors"
step "$bin/crossd" predict --weights "$out/back.safetensors" --input "$raw/imagesTs" --out "$out/ours"
echo
"$python" "$here/nnunet/agreement.py" "$out/theirs" "$out/ours"
