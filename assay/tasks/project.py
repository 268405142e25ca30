"""A new project: the files that `assay init` writes."""

from __future__ import annotations

from pathlib import Path

from assay.plugins.values import BadInput

PARAMS = """\
# One run: prepare → train → compress → attribute → evaluate → report.
# `assay methods list` shows what can stand here, `assay methods show ID` its parameters.
seed: 0
device: auto
threads: 1

prepare:
  - {name: source/digits}          # your own: source/image_folder, source/arrays (assay data add --help)

datasets: {}                       # further data sets by name: shift, out-of-distribution
trainings: {}                      # further trainings by name: teachers

train:
  model: {name: small_cnn, width: 16}
  optimizer: {name: adamw, lr: 3.0e-3}
  schedule: {name: cosine}
  epochs: 8

compress:
  pruned:
    - {name: prune/magnitude, sparsity: 0.8}
    - {name: recover/finetune, epochs: 2}
  pruned-int8:
    - {name: prune/magnitude, sparsity: 0.8}
    - {name: recover/finetune, epochs: 2}
    - {name: quantize/int8_static}

attribute:
  saliency: [gradient, {name: integrated_gradients, steps: 16}]
  agreement: [rank, top_k]
  audit: [deletion]
  images: 128

evaluate: [accuracy/top1, calibration/ece, cost/size, cost/latency]

gates:
  - accuracy/top1.drop <= 0.05
  - gradient:rank >= ceiling - 0.1
"""

DVC = """\
# `dvc repro` replays the stages; `assay run` computes the same cells and records them here.
# List under prepare.deps each data set (data/NAME) that params.yaml uses, under train.deps the file of
# weights that `train.from` names. Every section that is named here must stand in params.yaml, also where it
# is empty.
stages:
  prepare:
    cmd: assay stage prepare
    deps: [{deps}]
    params: [seed, device, threads, prepare, datasets]
    outs: [out/prepare]
  train:
    cmd: assay stage train
    deps: [out/prepare]
    params: [seed, device, threads, train, trainings]
    outs: [out/train]
  compress:
    foreach: ${{compress}}
    do:
      cmd: assay stage compress --variant ${{key}}
      deps: [out/prepare, out/train]
      params: [seed, "compress.${{key}}"]
      outs: ["out/compress/${{key}}.json"]
  attribute:
    cmd: assay stage attribute
    deps: [out/prepare, out/train, out/compress]
    params: [seed, attribute]
    outs: [out/attribute]
  evaluate:
    cmd: assay stage evaluate
    deps: [out/prepare, out/train, out/compress, out/attribute]
    params: [seed, evaluate]
    outs: [out/evaluate]
  report:
    cmd: assay stage report
    deps: [out/attribute, out/evaluate]
    params: [gates]
    outs: [out/timings.json]
    metrics: [out/metrics.json]
    plots:
      - out/history.csv: {{x: epoch, y: loss}}
"""

IGNORE = """\
.assay/
out/
reports/
data/*/
.dvc/cache/
.dvc/tmp/
"""


def create(folder: Path) -> list[Path]:
    """Writes a new project's files. Raises BadInput where the folder holds one already."""
    for name in ("params.yaml", "dvc.yaml"):
        if (folder / name).exists():
            raise BadInput(f"{folder / name} is there already: choose a new folder")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file: choose a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    files = {"params.yaml": PARAMS, "dvc.yaml": dvc_yaml(["digits"]), ".gitignore": IGNORE}
    for name, text in files.items():
        path = folder / name
        if path.exists():
            text = path.read_text(encoding="utf-8") + "\n" + text
        path.write_text(text, encoding="utf-8")
    from assay.tasks.settings import apply

    apply(folder)
    from assay.tasks.versions import repository

    with repository(folder):
        pass
    return [folder / name for name in (*files, ".dvc")]


def dvc_yaml(names: list[str]) -> str:
    """The text of `dvc.yaml` for a project that uses these data sets."""
    return DVC.format(deps=", ".join(f"data/{name}" for name in names))
