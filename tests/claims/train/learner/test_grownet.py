"""GrowNet: the loss on new data falls stage by stage, and lower with the corrective step than without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import make_friedman1

from assay.plugins.contract import Data, DataSpec, Split
from assay.plugins.train.learner.grownet import GrowNet
from assay.plugins.train.objective.cross_entropy import CrossEntropy
from assay.plugins.train.objective.mse import MSE
from assay.plugins.train.optimizer.adamw import AdamW

STAGES = 5


def friedman() -> Data:
    x, y = make_friedman1(1500, n_features=10, noise=0.5, random_state=0)
    x = ((x - 0.5) * np.sqrt(12)).astype(np.float32)
    y = ((y - y.mean()) / y.std()).astype(np.float32)[:, None]
    splits = {"train": Split({"x": x[:1000], "y": y[:1000]}), "test": Split({"x": x[1000:], "y": y[1000:]})}
    return Data(DataSpec(problem="regression", modality="features", shape=(10,), outputs=1), splits)


@pytest.mark.claim
@pytest.mark.slow
@pytest.mark.parametrize("problem", ["classification", "regression"])
def test_stages_and_corrections_lower_the_loss(train, digits, problem):
    data, objective, widths, outputs, epochs = {
        "classification": (digits, CrossEntropy(), (64, 16, 16), 10, 25),
        "regression": (friedman(), MSE(), (10, 16, 16), 1, 50),
    }[problem]
    for seed in range(3):

        def path(corrective: float, seed: int = seed) -> list[float]:
            """The test loss after each stage."""
            found = []

            def look(state, epoch: int) -> None:
                if (epoch + 1) % (epochs // STAGES) == 0:
                    batch = data.test.batch(slice(None))
                    with torch.no_grad():
                        found.append(float(objective.score(state.model.eval()(batch.x), batch).mean()))

            train(
                GrowNet(stages=STAGES, corrective=corrective),
                lambda: train.chain(*widths, outputs=outputs),
                data,
                seed,
                epochs,
                optimizer=AdamW(lr=0.003),
                objective=objective,
                each_epoch=look,
            )
            return found

        corrected, plain = path(0.5), path(0.0)
        # found: 0.12 to 0.17 against 0.23 to 0.24, and 0.030 to 0.039 against 0.046 to 0.052
        assert corrected[0] > corrected[1] > corrected[-1]
        assert corrected[-1] < 0.9 * plain[-1]
