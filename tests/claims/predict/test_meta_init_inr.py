"""Steps on the known pixels of digits against none (arxiv:2012.02189)."""

from __future__ import annotations

import pytest
import torch

from assay.plugins.contract import Context, DataSpec
from assay.plugins.predict.meta_init_inr import MetaInitINR
from assay.plugins.prepare.source.digits import Digits
from assay.plugins.prepare.transform.signals import Signals
from assay.plugins.train.model.siren import Siren


@pytest.mark.claim
def test_steps_on_what_is_known_predict_the_rest() -> None:
    for seed in range(3):
        ctx = Context(rng=torch.Generator().manual_seed(seed), spec=DataSpec(shape=()))
        digits, transform = Digits().load(ctx), Signals(context=0.5)
        data = transform.apply(digits, transform.fit(digits, ctx))
        torch.manual_seed(seed)
        model = Siren(hidden=(32, 32), omega=10.0).build(data.spec, ctx)
        batch = data.test.batch(slice(0, 100))
        found = []
        for steps in (0, 2, 10):
            values = MetaInitINR(steps=steps, lr=0.05).predict(model, batch, ctx)
            found.append(float((-10 * torch.log10((values - batch.y).square().flatten(1).mean(1))).mean()))
        assert found[1] > found[0] + 1, found
        assert found[2] > found[1] + 0.3, found
