"""Training through Assay's loop against loops that a user would write by hand, in one process.

    python benchmarks/training.py [--quick] [--json]

The plain loop goes over the same in-memory tensors with the same model, optimizer (fused AdamW), batch
size and initial weights; the DataLoader loop fetches one example at a time through transforms, as the
usual MNIST example does. Assay's side is the loop that `assay run` runs (`assay.tasks.training.Training`): order of
examples, batches, learning rate, the check for NaN, the log and a checkpoint each epoch. Sides alternate,
in the other order each round; a ratio is the median over the rounds of theirs / ours, in CPU time with one
thread: that does not see what else the machine does, though caches and clock still do. Where the CPU has
bf16 instructions, bf16 is timed too and its accuracy compared on scikit-learn's digits.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rows import Row, run_script
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from assay.plugins.values import Data, DataSpec, Split
from assay.tasks import params
from assay.tasks.cells import recipe_spec
from assay.tasks.job import Job
from assay.tasks.training import Examples, Recipe, Training, initial_model

SHAPE, CLASSES, BATCH = (1, 56, 28), 10, 128
EPOCHS = 10_000  # never reached: a round is one epoch of a long training


def examples(count: int) -> Data:
    """Random images of BlockMNIST's shape with labels."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    y = rng.integers(0, CLASSES, count).astype(np.int64)
    split = Split({"x": x, "y": y})
    return Data(DataSpec(shape=SHAPE, classes=tuple(str(i) for i in range(CLASSES))), {"train": split})


def recipe_of(model: Any, precision: str) -> dict[str, Any]:
    """A training as it stands in params.yaml, as a cell's spec."""
    tree = {
        "model": model,
        "batches": {"name": "shuffled", "size": BATCH},
        "objective": "cross_entropy",
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "epochs": EPOCHS,
        "precision": precision,
    }
    return recipe_spec(params.Train.model_validate(tree))


# the sides: each a function that trains one epoch


def new_training(data: Data, spec: dict[str, Any], folder: Path) -> Training:
    """A training of Assay's that is about to begin."""
    (folder / "preprocessing").mkdir(parents=True, exist_ok=True)
    (folder / "preprocessing" / "steps.json").write_text("[]", encoding="utf-8")
    job = Job(spec=spec, inputs={}, out=folder, work=folder)
    recipe = Recipe(spec["recipe"])
    made, card = initial_model(data, recipe, int(spec["seed"]), folder)
    training = Training(job, data, recipe, card, made)
    training.examples = Examples(data.train, job.device)
    training.saved_at = time.monotonic()
    return training


def assays(data: Data, model: Any, precision: str, folder: Path) -> Callable[[], object]:
    """Assay's loop."""
    training = new_training(data, {"recipe": recipe_of(model, precision), "seed": 0}, folder)
    epochs = iter(range(EPOCHS))
    return lambda: training.epoch(next(epochs), folder / "resume.safetensors")


def same_start(data: Data, model: Any, folder: Path) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Assay's initial model, and the optimizer that its recipe names."""
    made, _ = initial_model(data, Recipe(recipe_of(model, "fp32")), 0, folder)
    return made.train(), torch.optim.AdamW(made.parameters(), lr=1e-3, weight_decay=0.01, fused=True)


def plain(data: Data, model: Any, folder: Path) -> Callable[[], object]:
    """The loop by hand over tensors in memory."""
    net, optimizer = same_start(data, model, folder)
    x = torch.from_numpy(data.train.fields["x"]).float().div_(255)
    y = torch.from_numpy(data.train.fields["y"])

    def epoch() -> None:
        order = torch.randperm(len(x))
        for start in range(0, len(x), BATCH):
            at = order[start : start + BATCH]
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[at]), y[at])
            loss.backward()
            optimizer.step()

    return epoch


class OneByOne(Dataset[tuple[Tensor, int]]):
    """Examples one at a time, as torchvision's MNIST with ToTensor and Normalize gives them: the image as
    PIL's, that as a tensor in [0, 1], that normalised."""

    def __init__(self, split: Split):
        self.x, self.y = torch.from_numpy(split.fields["x"]), torch.from_numpy(split.fields["y"])

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.x[i, 0].numpy())
        pixels = torch.from_numpy(np.array(picture, copy=True)).view(*SHAPE[1:], 1)
        image = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        mean, std = torch.as_tensor((0.5,)).view(-1, 1, 1), torch.as_tensor((0.5,)).view(-1, 1, 1)
        return image.clone().sub_(mean).div_(std), int(self.y[i])


def loader(data: Data, model: Any, folder: Path) -> Callable[[], object]:
    """The loop by hand over a DataLoader."""
    net, optimizer = same_start(data, model, folder)
    batches = DataLoader(OneByOne(data.train), BATCH, shuffle=True)

    def epoch() -> None:
        for x, y in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()

    return epoch


# measuring


def seconds(call: Callable[[], object]) -> float:
    """CPU time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def compare(what: str, limit: float, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> Row:
    """The median ratio of the speeds."""
    ours(), theirs()
    ratios = []
    for turn in range(rounds):
        sides = (ours, theirs) if turn % 2 else (theirs, ours)
        took = {side: seconds(side) for side in sides}
        ratios.append(took[theirs] / took[ours])
    note = f"{min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds"
    return Row(what, statistics.median(ratios), limit, at_least=True, unit="×", note=note)


def has_bf16() -> bool:
    """Whether the CPU multiplies bf16 by instructions of its own."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(flag in text for flag in ("avx512_bf16", "amx_bf16"))


def accuracy(precision: str, seed: int) -> float:
    """Percentage of right answers of a small CNN on the digits' test split after eight epochs."""
    from assay.plugins.contract import Context
    from assay.plugins.prepare.source.digits import Digits

    data = Digits().load(Context(rng=torch.Generator(), spec=DataSpec(shape=())))
    with tempfile.TemporaryDirectory() as temporary:
        spec = {"recipe": {**recipe_of({"name": "small_cnn"}, precision), "epochs": 8}, "seed": seed}
        training, folder = new_training(data, spec, Path(temporary)), Path(temporary)
        for epoch in range(8):
            training.epoch(epoch, folder / "resume.safetensors")
        model = training.state.model.eval()
    batch = data.test.batch(slice(0, len(data.test)))
    with torch.inference_mode():
        return float((model(batch.x).argmax(1) == batch.y).double().mean()) * 100


def bf16_rows(data: Data, folder: Path, rounds: int, seeds: int) -> list[Row]:
    """bf16 against the plain loop in fp32, and what it costs in accuracy."""
    what, cost = "small_cnn, bf16 / plain loop in fp32", "small_cnn, bf16: accuracy lost on digits"
    if not has_bf16():
        note = "the CPU has no bf16 instructions"
        return [
            Row(what, None, 2.0, at_least=True, unit="×", note=note),
            Row(cost, None, 0.3, unit="points", note=note),
        ]
    model = {"name": "small_cnn"}
    lost = statistics.mean(accuracy("fp32", seed) - accuracy("bf16", seed) for seed in range(seeds))
    return [
        compare(what, 2.0, assays(data, model, "bf16", folder), plain(data, model, folder), rounds),
        Row(cost, lost, 0.3, unit="points", note=f"mean of {seeds} seeds"),
    ]


def measure(quick: bool) -> list[Row]:
    """Every row."""
    torch.set_num_threads(1)
    rounds = 5 if quick else 15
    few, many = examples(2048), examples(20_000)
    cnn, mlp = {"name": "small_cnn"}, {"name": "mlp"}
    with tempfile.TemporaryDirectory(prefix="assay-training-") as temporary:
        at = Path(temporary)
        fp32 = "fp32"
        return [
            compare("small_cnn, fp32 / plain loop", 0.97, assays(few, cnn, fp32, at), plain(few, cnn, at), rounds),
            compare("mlp, fp32 / plain loop", 0.97, assays(many, mlp, fp32, at), plain(many, mlp, at), rounds),
            compare(
                "mlp / DataLoader, per-sample transforms", 3.0, assays(many, mlp, fp32, at), loader(many, mlp, at), 3
            ),
            *bf16_rows(few, at, rounds, 2 if quick else 5),
        ]


if __name__ == "__main__":
    run_script(__doc__, measure)
