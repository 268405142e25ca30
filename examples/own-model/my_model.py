"""A small convolutional network, as you may have one already: nothing here knows of Assay."""

from torch import Tensor, nn


class Net(nn.Module):
    """Children `backbone` (features) and `fc` (the last layer)."""

    def __init__(self, classes: int = 3, width: int = 8):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, H, W)."""
        return self.fc(self.backbone(x))
