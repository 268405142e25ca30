"""Stands in for what you have: writes `photos/` (three classes) and `weights.safetensors`, a trained `Net`."""

from pathlib import Path

import numpy as np
import torch
from my_model import Net
from PIL import Image
from safetensors.torch import save_file

CLASSES = ("cross", "disc", "stripes")
MEAN, STD, SIZE = 0.5, 0.25, 24


def draw(kind: str, rng: np.random.Generator) -> np.ndarray:
    """One shape in a random place and colour on noise, uint8 (SIZE, SIZE, 3)."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - rng.integers(8, 16, 2)[:, None, None]
    shape = {
        "cross": (abs(rows) < 2) | (abs(columns) < 2),
        "disc": rows**2 + columns**2 < 36,
        "stripes": (rows + columns) % 6 < 3,
    }[kind]
    image = rng.uniform(0, 0.4, (SIZE, SIZE, 3))
    image[shape] += rng.uniform(0.3, 0.6, 3)
    return (255 * image).astype(np.uint8)


def main() -> None:
    """Images, then a few seconds of training."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    images, labels = [], []
    for split, count in (("train", 60), ("test", 30)):
        for label, kind in enumerate(CLASSES):
            folder = Path("photos", split, kind)
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                image = draw(kind, rng)
                Image.fromarray(image).save(folder / f"{i:03d}.png")
                if split == "train":
                    images.append(image)
                    labels.append(label)
    x = (torch.tensor(np.stack(images)).permute(0, 3, 1, 2) / 255 - MEAN) / STD
    y = torch.tensor(labels)
    model = Net(classes=len(CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    save_file(model.state_dict(), "weights.safetensors")


if __name__ == "__main__":
    main()
