"""The suite can fail: for each promise a method that breaks it, and nothing else that it should not."""

from __future__ import annotations

import textwrap

import pytest
import torch

from assay.plugins import testing

HEADER = '''
"""A method that breaks a promise on purpose."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from assay.plugins.contract import *


'''

# slot, name of the case, the class, the checks that must fail
BROKEN = [
    ("attribute.saliency", "no_description", """
        class Bad(Saliency):
            '''A fill.'''
            card = Card(title="Bad", problems=("classification",))
            value: float = Field(1.0, ge=0)
            def attribute(self, model, batch, score, ctx):
                return Attribution(torch.ones(batch.size, *batch.x.shape[2:]))
     """, {"card"}),
    ("attribute.saliency", "claim_without_verdict", """
        class Bad(Saliency):
            '''A fill.'''
            card = Card(title="Bad", problems=("classification",), paper="arxiv:1", claim="It is good.")
            def attribute(self, model, batch, score, ctx):
                return Attribution(torch.ones(batch.size, *batch.x.shape[2:]))
     """, {"card"}),
    ("attribute.saliency", "title_not_literal", """
        NAME = "Bad"
        class Bad(Saliency):
            '''A fill.'''
            card = Card(title=NAME + " again", problems=("classification",))
            def attribute(self, model, batch, score, ctx):
                return Attribution(torch.ones(batch.size, *batch.x.shape[2:]))
     """, {"card"}),
    ("attribute.saliency", "no_bounds", """
        class Bad(Saliency):
            '''A fill.'''
            card = Card(title="Bad", problems=("classification",))
            value: float | None = Field(None, description="any number")
            def attribute(self, model, batch, score, ctx):
                return Attribution(torch.ones(batch.size, *batch.x.shape[2:]))
     """, {"bounds"}),
    ("attribute.saliency", "bad_default", """
        class Bad(Saliency):
            '''A fill.'''
            card = Card(title="Bad", problems=("classification",))
            value: float = Field(3.0, ge=0, le=1, description="out of its own bounds", examples=[1.0])
            def attribute(self, model, batch, score, ctx):
                return Attribution(torch.ones(batch.size, *batch.x.shape[2:]))
     """, {"parameters"}),
    ("attribute.saliency", "thawed", """
        class Bad(Saliency):
            '''A fill.'''
            model_config = dict(frozen=False, extra="ignore")
            card = Card(title="Bad", problems=("classification",))
            values: list[float] = Field([1.0], description="a list")
            def attribute(self, model, batch, score, ctx):
                return Attribution(torch.ones(batch.size, *batch.x.shape[2:]))
     """, {"parameters", "unknown_parameters"}),
    ("attribute.saliency", "imports_the_frame", """
        class Bad(Saliency):
            '''A fill.'''
            card = Card(title="Bad", problems=("classification",))
            def attribute(self, model, batch, score, ctx):
                from assay import tasks
                return Attribution(torch.ones(batch.size, *batch.x.shape[2:]))
     """, {"source"}),
    ("attribute.saliency", "leaves_a_hook", """
        class Bad(Saliency):
            '''A hook of its own.'''
            card = Card(title="Bad", problems=("classification",))
            def attribute(self, model, batch, score, ctx):
                model.head.register_forward_hook(lambda *args: None)
                return Attribution(torch.ones(batch.size, *batch.x.shape[2:]))
     """, {"source", "purity", "purity_after_an_exception"}),
    ("attribute.saliency", "leaves_gradients", """
        class Bad(Saliency):
            '''backward() fills the parameters' gradients.'''
            card = Card(title="Bad", problems=("classification",))
            def attribute(self, model, batch, score, ctx):
                x = batch.x.clone().requires_grad_()
                score(model(x), batch).sum().backward()
                return Attribution(x.grad.sum(1))
     """, {"purity", "purity_after_an_exception"}),
    ("attribute.saliency", "marks_the_batch", """
        class Bad(Saliency):
            '''Asks for gradients of the input it was given.'''
            card = Card(title="Bad", problems=("classification",))
            def attribute(self, model, batch, score, ctx):
                x = batch.x.requires_grad_()
                return Attribution(torch.autograd.grad(score(model(x), batch).sum(), x)[0].sum(1))
     """, {"purity", "purity_after_an_exception"}),
    ("attribute.saliency", "mode_lost_in_an_exception", """
        class Bad(Saliency):
            '''Changes the mode and puts it back where nothing goes wrong.'''
            card = Card(title="Bad", problems=("classification",))
            def attribute(self, model, batch, score, ctx):
                model.layers.train()
                model.layers.eval()
                model.head.train()
                with torch.no_grad():
                    values = model(batch.x)
                model.head.eval()
                return Attribution(torch.ones(batch.size, *batch.x.shape[2:]))
     """, {"purity_after_an_exception"}),
    ("attribute.saliency", "keeps_the_graph", """
        class Bad(Saliency):
            '''An answer that still holds its graph.'''
            card = Card(title="Bad", problems=("classification",))
            def attribute(self, model, batch, score, ctx):
                out = model(batch.x).sum(1)[:, None, None]
                return Attribution(out.expand(-1, *batch.x.shape[2:]))
     """, {"purity"}),
    ("attribute.saliency", "global_draws", """
        class Bad(Saliency):
            '''Draws from torch's global generator.'''
            card = Card(title="Bad", problems=("classification",))
            def attribute(self, model, batch, score, ctx):
                return Attribution(torch.rand(batch.size, *batch.x.shape[2:]))
     """, {"determinism", "batch_independence"}),
    ("attribute.saliency", "draws_in_order", """
        class Bad(Saliency):
            '''Draws depend on the place in the batch, not on the example's number.'''
            card = Card(title="Bad", problems=("classification",))
            def attribute(self, model, batch, score, ctx):
                return Attribution(torch.rand(batch.size, *batch.x.shape[2:], generator=ctx.rng))
     """, {"batch_independence"}),
    ("attribute.saliency", "batch_scaled", """
        class Bad(Saliency):
            '''Scaled by the batch's largest value.'''
            card = Card(title="Bad", problems=("classification",))
            def attribute(self, model, batch, score, ctx):
                values = batch.x.sum(1)
                return Attribution(values / values.abs().max())
     """, {"batch_independence"}),
    ("attribute.saliency", "wrong_shape", """
        class Bad(Saliency):
            '''One value a channel too.'''
            card = Card(title="Bad", problems=("classification",))
            def attribute(self, model, batch, score, ctx):
                return Attribution(batch.x.clone())
     """, {"map_shape"}),
    ("attribute.removal", "forgets", """
        class Bad(Removal):
            '''Takes everything away.'''
            card = Card(title="Bad", problems=("classification",))
            def remove(self, batch, keep, ctx):
                return torch.zeros_like(batch.x)
     """, {"keeping_all"}),
    ("attribute.agreement", "collapsed", """
        class Bad(Agreement):
            '''1 minus the distance: equal zeros agree.'''
            card = Card(title="Bad", problems=("classification",))
            def agree(self, a, b):
                return 1 - (a.values - b.values).abs().flatten(1).mean(1)
     """, {"agreement"}),
    ("evaluate.accuracy", "mean_differs", """
        class Bad(Evaluator):
            '''The mean over examples is not the number.'''
            card = Card(title="Bad", problems=("classification",))
            def evaluate(self, subject, ctx):
                batch = subject.data["main"].test.batch(slice(0, 24))
                right = (subject.predict(batch).argmax(1) == batch.y).double()
                return Result({"n": Number(float(right.mean()) * 100, "%", 1, "share", right.numpy())})
     """, {"result"}),
    ("evaluate.accuracy", "undefined", """
        class Bad(Evaluator):
            '''No definition, and not a number without a word.'''
            card = Card(title="Bad", problems=("classification",))
            def evaluate(self, subject, ctx):
                return Result({"n": Number(float("nan"), "%", 1, "a number")})
     """, {"result"}),
    ("evaluate.accuracy", "trains_the_model", """
        class Bad(Evaluator):
            '''Leaves the model in training mode.'''
            card = Card(title="Bad", problems=("classification",))
            def evaluate(self, subject, ctx):
                subject.model.train()
                return Result({"n": Number(1.0, "", 1, "one")})
     """, {"subject_untouched", "subject_untouched_after_an_exception"}),
    ("evaluate.accuracy", "by_batch", """
        class Bad(Evaluator):
            '''A mean of the batches' means.'''
            card = Card(title="Bad", problems=("classification",))
            def evaluate(self, subject, ctx):
                split = subject.data["main"].test
                means = [subject.predict(b).softmax(1).amax().item() for b in split.batches(ctx.batch_limit)]
                return Result({"n": Number(float(np.mean(means)), "", 1, "a mean")})
     """, {"any_batch_size"}),
    ("evaluate.accuracy", "by_neighbours", """
        class Bad(Evaluator):
            '''An example's value is relative to the others'.'''
            card = Card(title="Bad", problems=("classification",))
            def evaluate(self, subject, ctx):
                split = subject.data["main"].test
                p = subject.predict(split.batch(slice(0, len(split)))).softmax(1).amax(1).double()
                p = p - p.mean() + 1
                return Result({"n": Number(float(p.mean()), "", 1, "a mean", p.numpy())})
     """, {"example_independence"}),
    ("evaluate.accuracy", "silent_refusal", """
        class Bad(Evaluator):
            '''Not auditable, without a reason.'''
            card = Card(title="Bad", problems=("classification",))
            def evaluate(self, subject, ctx):
                raise NotAuditable
     """, {"result", "names", "subject_untouched", "subject_untouched_after_an_exception", "same_result",
           "any_batch_size", "example_independence"}),
    ("evaluate.accuracy", "other_names", """
        class Bad(Evaluator):
            '''Announces another number than it gives.'''
            card = Card(title="Bad", problems=("classification",))
            def numbers(self):
                return ("m",)
            def evaluate(self, subject, ctx):
                return Result({"n": Number(0.5, "", 1, "a half")})
     """, {"names"}),
    ("compress.prune", "recomputes", """
        class Bad(Link):
            '''Decides again when applied, by the weights that it finds.'''
            card = Card(title="Bad", problems=("classification",))
            def fit(self, model, data, ctx):
                return Record()
            def apply(self, model, record):
                import copy
                model = copy.deepcopy(model)
                model.register_buffer("kept", (model.head.weight.detach().abs() > 0.05).double()[:, : 1 + int(
                    1000 * abs(float(model.head.weight[0, 0].detach()))) % 17])
                return model
     """, {"reload"}),
    ("compress.prune", "in_place", """
        class Bad(Link):
            '''Changes the model that it is given.'''
            card = Card(title="Bad", problems=("classification",))
            def fit(self, model, data, ctx):
                return Record()
            def apply(self, model, record):
                with torch.no_grad():
                    model.head.weight.mul_(0.5)
                return model
     """, {"purity"}),
    ("compress.prune", "fits_in_training_mode", """
        class Bad(Link):
            '''Leaves the model in training mode.'''
            card = Card(title="Bad", problems=("classification",))
            def fit(self, model, data, ctx):
                model.train()
                return Record()
            def apply(self, model, record):
                import copy
                return copy.deepcopy(model)
     """, {"purity", "purity_after_an_exception"}),
    ("compress.prune", "no_json", """
        class Bad(Link):
            '''A record that cannot be stored.'''
            card = Card(title="Bad", problems=("classification",))
            def fit(self, model, data, ctx):
                return Record({"shape": model.head.weight.shape, "dtype": torch.float32})
            def apply(self, model, record):
                import copy
                return copy.deepcopy(model)
     """, {"reload"}),
    ("compress.prune", "asks_otherwise", """
        class Bad(Link):
            '''Announces another training than it asks for.'''
            card = Card(title="Bad", problems=("classification",))
            def asks(self):
                return [Ask({"epochs": 1}, start="parent")]
            def fit(self, model, data, ctx, lab):
                trained = lab.train([Ask({"epochs": 2}, start="parent")])[0].model
                return Record(weights=trained.state_dict())
            def apply(self, model, record):
                import copy
                return copy.deepcopy(model)
     """, {"asks"}),
    ("compress.prune", "loose", """
        class Bad(Link):
            '''A constraint that does not hold what it says.'''
            card = Card(title="Bad", problems=("classification",))
            def fit(self, model, data, ctx):
                return Record()
            def apply(self, model, record):
                import copy
                return copy.deepcopy(model)
            def constraint(self, model, record):
                def restore():
                    with torch.no_grad():
                        model.head.weight.mul_(0.5)
                return restore
     """, {"constraint"}),
    ("compress.prune", "no_gradient", """
        class Cut(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner
            def forward(self, x):
                return self.inner(x.detach())
        class Bad(Link):
            '''Takes gradients away and does not say so.'''
            card = Card(title="Bad", problems=("classification",))
            def fit(self, model, data, ctx):
                return Record()
            def apply(self, model, record):
                import copy
                return Cut(copy.deepcopy(model))
     """, {"trains_on"}),
    ("prepare.source", "by_chance", """
        class Bad(Source):
            '''Other data each time.'''
            card = Card(title="Bad", problems=("classification",))
            def load(self, ctx):
                x = np.random.default_rng().random((6, 1, 4, 4), dtype=np.float32)
                split = Split({"x": x, "y": np.arange(6) % 2})
                return Data(DataSpec(shape=(1, 4, 4), classes=("a", "b")), {"train": split, "test": split})
     """, {"load"}),
    ("prepare.source", "out_of_range", """
        class Bad(Source):
            '''A label beyond the classes, and doubles.'''
            card = Card(title="Bad", problems=("classification",))
            def load(self, ctx):
                split = Split({"x": np.zeros((6, 1, 4, 4), dtype=np.uint8), "y": np.arange(6)})
                return Data(DataSpec(shape=(1, 4, 4), classes=("a", "b")), {"train": split, "test": split})
     """, {"load"}),
    ("prepare.transform", "in_place", """
        class Bad(Transform):
            '''Writes into the arrays.'''
            card = Card(title="Bad", problems=("classification",))
            def apply(self, data, record):
                for split in data.splits.values():
                    split.fields["x"][0] = 0
                return data
     """, {"apply", "determinism", "record"}),
    ("prepare.transform", "stale_spec", """
        class Bad(Transform):
            '''Crops the images and leaves the spec as it was.'''
            card = Card(title="Bad", problems=("classification",))
            def apply(self, data, record):
                return data.map(lambda name, split: split.replace(x=split.fields["x"][:, :, :4]))
     """, {"apply"}),
    ("prepare.transform", "serves_by_label", """
        class Bad(Transform):
            '''Says that new data can pass it, and needs labels.'''
            card = Card(title="Bad", problems=("classification",), serves=True)
            def apply(self, data, record):
                return data.map(lambda name, split: split.replace(y=split.fields["y"].copy()))
     """, {"serving"}),
    ("train.model", "no_head", """
        class Bad(Model):
            '''Layers alone, of fixed size.'''
            card = Card(title="Bad", problems=("classification",))
            def build(self, spec, ctx):
                size = int(np.prod(spec.shape))
                return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(size, 3))
     """, {"shape"}),
    ("train.model", "own_seed", """
        class Net(nn.Module):
            def __init__(self, size, outputs):
                super().__init__()
                self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, 4))
                self.head = nn.Linear(4, outputs)
                self.unused = nn.Linear(2, 2)
            def forward(self, x):
                return self.head(F.dropout(self.layers(x), 0.5))
        class Bad(Model):
            '''Ignores the seed, drops out in eval mode, and has parameters of no use.'''
            card = Card(title="Bad", problems=("classification",))
            def build(self, spec, ctx):
                torch.manual_seed(3)
                return Net(int(np.prod(spec.shape)), spec.n_outputs)
     """, {"determinism", "evaluation_mode", "trains", "exports"}),
    ("train.batches", "short", """
        class Bad(Batches):
            '''Says one batch more than it gives, drawn from the global generator.'''
            card = Card(title="Bad", problems=("classification",))
            def epoch(self, data, ctx):
                return [torch.randperm(len(data))[:4]]
            def steps(self, data):
                return 2
     """, {"order"}),
    ("train.augment", "writes", """
        class Bad(Augment):
            '''Writes into the batch.'''
            card = Card(title="Bad", problems=("classification",))
            def augment(self, batch, ctx):
                batch.x.mul_(0.5)
                return batch
     """, {"augment"}),
    ("train.augment", "hard_labels_only", """
        class Bad(Augment):
            '''Cannot take labels that are probabilities already.'''
            card = Card(title="Bad", problems=("classification",))
            def augment(self, batch, ctx):
                return batch.replace(y=F.one_hot(batch.y, 3).float())
     """, {"augment"}),
    ("train.objective", "hard_labels_only", """
        class Bad(Objective):
            '''Takes the most likely class of soft labels for granted.'''
            card = Card(title="Bad", problems=("classification",))
            def score(self, output, batch):
                y = batch.y if batch.y.ndim == 1 else batch.y[:, 0].long()
                return F.cross_entropy(output, y, reduction="none")
     """, {"soft_labels"}),
    ("train.objective", "coupled_unsaid", """
        class Bad(Objective):
            '''Weighs an example by the others' losses.'''
            card = Card(title="Bad", problems=("classification",))
            def score(self, output, batch):
                losses = F.cross_entropy(output, batch.y, reduction="none")
                return losses * losses.detach().softmax(0)
     """, {"repeatable"}),
    ("train.penalty", "detached", """
        class Bad(Penalty):
            '''No gradient.'''
            card = Card(title="Bad", problems=("classification",))
            def loss(self, model, batch, ctx):
                return ctx.forward(model, batch).square().mean(1).detach()
     """, {"loss"}),
    ("train.optimizer", "hidden_state", """
        class Momentum(torch.optim.Optimizer):
            def __init__(self, groups, lr):
                super().__init__(groups, dict(lr=lr))
                self.velocity = {}
            @torch.no_grad()
            def step(self, closure=None):
                for group in self.param_groups:
                    for p in group["params"]:
                        self.velocity[p] = self.velocity.get(p, 0) * 0.9 + p.grad
                        p -= group["lr"] * self.velocity[p]
        class Bad(Optimizer):
            '''Keeps its velocity where no checkpoint sees it.'''
            card = Card(title="Bad", problems=("classification",))
            def build(self, groups):
                return Momentum(groups, self.lr)
     """, {"resume"}),
    ("train.optimizer", "own_rate", """
        class Bad(Optimizer):
            '''Does not heed the groups' learning rates.'''
            card = Card(title="Bad", problems=("classification",))
            def build(self, groups):
                return torch.optim.SGD([p for g in groups for p in g["params"]], lr=0.1)
     """, {"learning_rate"}),
    ("train.schedule", "negative", """
        class Bad(Schedule):
            '''Falls below zero.'''
            card = Card(title="Bad", problems=("classification",))
            def factor(self, step, total):
                return 1 - 2 * step / total
     """, {"factor"}),
    ("train.around", "moves_the_weights", """
        class Bad(Around):
            '''Climbs and does not come back.'''
            card = Card(title="Bad", problems=("classification",))
            def gradients(self, next, state, batch, ctx):
                with torch.no_grad():
                    for p in state.parameters():
                        p.add_(0.01)
                return next(batch)
     """, {"gradients"}),
    ("train.around", "remembers", """
        class Bad(Around):
            '''Keeps the last gradients outside the state.'''
            card = Card(title="Bad", problems=("classification",))
            def gradients(self, next, state, batch, ctx):
                found = next(batch)
                last = ctx.__dict__.get("last", found.grads)
                ctx.last = found.grads
                return Gradients(found.losses, [None if g is None else g + 0.5 * h for g, h in zip(found.grads, last)])
     """, {"resume_around"}),
    ("train.learner", "forgets_the_terms", """
        class Bad(Learner):
            '''Its counter is not in the state.'''
            card = Card(title="Bad", problems=("classification",))
            def init(self, model, terms, data, ctx):
                own = {}
                for bound in [terms.objective, *terms.penalties, *terms.around]:
                    module = bound.method.init(model, data, bound.ctx)
                    if module is not None:
                        own[bound.name] = bound.ctx.own = module
                ctx.count = 0
                groups = [{"params": list(model.parameters()), "name": "model"}]
                return State(model, own, {"main": terms.optimizer.build(groups)}, terms)
            def step(self, state, batch, ctx):
                ctx.count += 1
                state.optimizers["main"].zero_grad()
                loss = state.terms.losses(state.model, batch).mean() * ctx.count
                loss.backward()
                state.optimizers["main"].step()
                return {"loss": loss.detach()}
     """, {"resume_learner"}),
    ("problems", "classification", """
        class Bad(Problem):
            '''Checks nothing, and its errors are signed.'''
            card = Card(title="Bad", problems=("classification",))
            fields = ("x", "y")
            def check(self, data):
                return None
            def target(self, prediction):
                return prediction.argmax(1)
            def score(self, prediction, target):
                return prediction.gather(1, target[:, None]).squeeze(1)
            def error(self, prediction, batch):
                return -(prediction.argmax(1) != batch.y + 5).float()
            def chance(self, data):
                return 0.5
     """, {"fields", "predictions"}),
]  # fmt: skip


@pytest.mark.parametrize(("slot", "name", "text", "expected"), BROKEN, ids=[f"{b[0]}-{b[1]}" for b in BROKEN])
def test_a_broken_promise_is_found(install, slot: str, name: str, text: str, expected: set[str]) -> None:
    folder = "fake_bad/methods"
    # A folder of its own slot name: Assay's own problem of the same name is no part of this test.
    place = f"{slot}.fake" if slot == "problems" else slot
    files = {"fake_bad/__init__.py": "", f"{folder}/__init__.py": ""}
    files[f"{folder}/{name}.py"] = HEADER + textwrap.dedent(text)
    install("fake-bad", {place: "fake_bad.methods"}, files)
    outcomes = testing.check("fake-bad")
    assert len(outcomes) > 5, outcomes
    failed = {o.check: o.message for o in outcomes if not o.ok}
    assert set(failed) == expected, failed
    assert all(failed.values())


def test_the_suite_leaves_the_global_generators_as_they_were() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    testing.run("train/optimizer/sgd")
    assert torch.equal(torch.rand(3), expected)


def test_a_required_parameter_needs_an_example(install) -> None:
    text = '''
        class Fill(Schedule):
            """One value."""
            card = Card(title="One value")
            value: float = Field(ge=0, description="the value"EXAMPLES)
            def factor(self, step, total):
                return self.value
    '''
    package = {"fake_bad/__init__.py": "", "fake_bad/methods/__init__.py": ""}
    for name, examples in (("without", ""), ("given", ", examples=[0.5]")):
        package[f"fake_bad/methods/{name}.py"] = HEADER + textwrap.dedent(text.replace("EXAMPLES", examples))
    install("fake-bad", {"train.schedule": "fake_bad.methods"}, package)
    given = testing.run("train/schedule/given")
    assert all(o.ok and not o.skipped for o in given), given
    without = {o.check: o for o in testing.run("train/schedule/without")}
    assert without["factor"].skipped
    assert "examples=[...]" in without["factor"].message


def test_a_source_that_downloads_is_loaded_only_where_its_files_are(install, monkeypatch, tmp_path) -> None:
    text = """
        class Fetch(Source):
            '''Reads what was downloaded.'''
            card = Card(title="Fetch")
            def load(self, ctx):
                x = np.frombuffer((ctx.folder / "x.bin").read_bytes(), np.uint8).reshape(2, 1, 4, 4)
                split = Split({"x": x, "y": np.arange(2)})
                return Data(DataSpec(shape=(1, 4, 4), classes=("a", "b")), {"train": split, "test": split})
    """
    package = {"fake_bad/__init__.py": "", "fake_bad/methods/__init__.py": ""}
    package["fake_bad/methods/fetch.py"] = HEADER + textwrap.dedent(text)
    install("fake-bad", {"prepare.source": "fake_bad.methods"}, package)
    monkeypatch.delenv("ASSAY_DOWNLOADS", raising=False)
    (load,) = [o for o in testing.check("fake-bad") if o.check == "load"]
    assert load.skipped
    assert "ASSAY_DOWNLOADS" in load.message
    (tmp_path / "x.bin").write_bytes(bytes(32))
    monkeypatch.setenv("ASSAY_DOWNLOADS", str(tmp_path))
    (load,) = [o for o in testing.check("fake-bad") if o.check == "load"]
    assert (load.ok, load.skipped) == (True, False), load.message
