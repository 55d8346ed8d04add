"""Fine-tuning: against a plain loop, stopped and resumed bit for bit, and stopped at NaN."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
import shutil
from itertools import chain

import numpy as np
import pytest
import torch

from nuggets.data.samples import encode
from nuggets.disk.commit import newest_valid
from nuggets.errors import BadInput, Cancelled, Damaged, NonFinite
from nuggets.extraction.adapter import add_lora
from nuggets.extraction.plan import LoraConfig
from nuggets.models.forward import answer_logits, pad_right
from nuggets.progress import InMemoryProgress
from nuggets.train import micro_batches
from nuggets.train.arms.family import Distill
from nuggets.train.checkpoints import PREFIX, load_weights, trainable
from nuggets.train.config import TrainConfig
from nuggets.train.finetune import finetune
from nuggets.train.lanes import training
from nuggets.train.lanes.training import learning_rates
from nuggets.train.losses import DistillationLoss, answer_loss
from nuggets.train.randomness import generator, seeded
from nuggets.train.schedule import count_steps, sample_order
from tests.unit.train.tiny_lab import letters, load, make_lab

CONFIG = TrainConfig(
    steps=10, batch_size=4, lr=5e-3, warmup=0.2, checkpoint_every=3, evaluate_every=4
)


@pytest.fixture
def loaded(tiny):
    return load(tiny("llama"))


@pytest.fixture
def encoded(loaded):
    return [encode(sample, loaded.tokenizer) for sample in letters(10, 3)]


def with_lora(loaded, dropout=0.0):
    lora = LoraConfig(r=4, dropout=dropout)
    ranks = {loaded.spec.module(role, 0): 4 for role in ("q", "v", "down")}
    with seeded(0):
        return add_lora(load_again(loaded), ranks, lora)


def load_again(loaded):
    import copy

    return copy.deepcopy(loaded.model)


def whole(loaded, dropout=0.0):
    return load_again(loaded)


def weights(model):
    return {name: p.detach().clone() for name, p in trainable(model).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class StopAt(InMemoryProgress):
    """Cancels once a step is done."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def progress(self, done, total, message="", **data):
        if done >= self.step:
            self.cancel()


def test_every_epoch_shows_each_sample_once_in_a_new_order():
    batches = sample_order(10, steps=6, batch_size=4, seed=0)
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    first, second = [*chain(*batches[:3])], [*chain(*batches[3:])]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert batches == sample_order(10, 6, 4, seed=0) != sample_order(10, 6, 4, seed=1)


def test_steps_of_the_papers_three_epochs():
    assert count_steps(TrainConfig(epochs=3, batch_size=64), 1000) == 48
    assert count_steps(TrainConfig(steps=7), 1000) == 7
    with pytest.raises(BadInput, match="no sample"):
        count_steps(TrainConfig(steps=7), 0)


@pytest.mark.parametrize("build", [with_lora, whole])
def test_training_equals_a_plain_loop(loaded, encoded, build):
    model = build(loaded)
    log = finetune(model, encoded, CONFIG, 0)

    other = build(loaded).train()
    own = list(trainable(other).values())
    optimizer = torch.optim.AdamW(own, lr=CONFIG.lr, weight_decay=0.0)
    losses = []
    for step, batch in enumerate(sample_order(10, 10, 4, 0)):
        rate = step / 2 if step < 2 else (10 - step) / 8  # two steps of warm-up, then linear
        optimizer.param_groups[0]["lr"] = CONFIG.lr * rate
        ids, labels = pad_right([encoded[i] for i in batch], "cpu")
        loss = other(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        losses.append(loss.item())

    np.testing.assert_allclose(log.losses, losses, rtol=1e-4)
    for name, value in weights(other).items():
        np.testing.assert_allclose(weights(model)[name], value, atol=2e-5)


@pytest.mark.parametrize("build", [with_lora, whole])
@pytest.mark.parametrize("stop", [1, 3, 5, 10])
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_bit_for_bit(
    loaded, encoded, tmp_path, build, stop
):
    def train(folder, progress=None):
        model = build(loaded, dropout=0.1)

        def point(step):
            return float(sum(p.detach().double().sum() for p in trainable(model).values()))

        log = finetune(
            model,
            encoded,
            CONFIG,
            7,
            folder,
            progress=progress,
            on_evaluate=point,
        )
        return model, log

    expected, log = train(tmp_path / "whole")
    if stop == 10:  # everything was trained: the last checkpoint is the result
        train(tmp_path / "parts")
    else:
        with pytest.raises(Cancelled):
            train(tmp_path / "parts", StopAt(stop))
    torch.manual_seed(99)  # whatever the new process has drawn so far
    resumed, again = train(tmp_path / "parts")

    assert same(weights(expected), weights(resumed))
    assert (again.losses, again.curve) == (log.losses, log.curve)
    assert [step for step, _ in log.curve] == [0, 4, 8, 10]


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(loaded, encoded, tmp_path):
    expected = with_lora(loaded)
    finetune(expected, encoded, CONFIG, 0, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    broken = tmp_path / "checkpoint-10" / "weights.safetensors"
    broken.write_bytes(broken.read_bytes()[:-8])
    model = with_lora(loaded)
    assert newest_valid(tmp_path, PREFIX) == tmp_path / "checkpoint-9"
    shutil.rmtree(tmp_path / "checkpoint-10")
    finetune(model, encoded, CONFIG, 0, tmp_path)
    assert same(weights(expected), weights(model))


def test_a_checkpoint_of_another_model_is_refused(loaded, encoded, tmp_path):
    finetune(with_lora(loaded), encoded, CONFIG, 0, tmp_path)
    with pytest.raises(Damaged, match="belongs to another model"):
        finetune(whole(loaded), encoded, CONFIG, 0, tmp_path)


def bad_loss(value, at):
    """A loss that is a value at one step."""
    calls = []

    def compute(model, ids, labels):
        calls.append(1)
        loss = answer_loss(model, ids, labels)
        return loss * value if len(calls) == at else loss

    return compute


def bad_gradient(at):
    """A finite loss whose gradient is not, from one step on."""
    calls = []

    def compute(model, ids, labels):
        calls.append(1)
        loss = answer_loss(model, ids, labels)
        if len(calls) < at:
            return loss
        zero = (loss - loss.detach()) * 0  # √ has an infinite slope at 0, and 0 · ∞ is NaN
        return loss + zero.abs().sqrt()

    return compute


@pytest.mark.parametrize("at", [1, 6])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        (math.nan, "loss became nan"),
        (math.inf, "loss became inf"),
        (-math.inf, "loss became -inf"),
        ("gradient", "gradient norm became .*"),
    ],
)
def test_training_stops_at_the_step_of_a_bad_value_and_keeps_a_finite_checkpoint(
    loaded, encoded, tmp_path, what, message, at, counted
):
    model = with_lora(loaded)
    loss = bad_gradient(at) if what == "gradient" else bad_loss(what, at)
    with pytest.raises(NonFinite, match=f"{message} at step {at}"):
        finetune(model, encoded, CONFIG, 0, tmp_path, loss=loss)
    newest = newest_valid(tmp_path, PREFIX)
    counted("F9", "a loss or gradient that is not finite", 1)
    if at == 1:
        assert newest is None
        return
    assert newest == tmp_path / "checkpoint-3"
    load_weights(model, newest)
    assert all(torch.isfinite(value).all() for value in weights(model).values())


def test_training_stops_at_the_step_that_overflows_the_weights(loaded, encoded, tmp_path, counted):
    config = TrainConfig(steps=10, batch_size=4, lr=1e39, warmup=0, checkpoint_every=1)
    with pytest.raises(NonFinite, match="weights became NaN or infinite at step 1 "):
        finetune(whole(loaded), encoded, config, 0, tmp_path)
    assert newest_valid(tmp_path, PREFIX) is None
    counted("F9", "weights that overflow in a step", 1)


def test_cancelling_stops_before_the_next_step(loaded, encoded):
    progress = StopAt(5)
    with pytest.raises(Cancelled):
        finetune(with_lora(loaded), encoded, CONFIG, 0, progress=progress)
    assert [m["step"] for m in progress.metrics] == [1, 2, 3, 4, 5]


def test_events_carry_step_loss_and_the_rate_of_that_schedule(loaded, encoded):
    progress = InMemoryProgress()
    log = finetune(
        with_lora(loaded), encoded, CONFIG, 0, progress=progress, on_evaluate=lambda step: step / 2
    )
    assert [m["loss"] for m in progress.metrics] == log.losses
    points = {m["step"]: m["point"] for m in progress.metrics if "point" in m}
    assert points == {4: 2.0, 8: 4.0, 10: 5.0}
    assert progress.fraction == 1.0
    assert progress.metrics[1]["lr"] == pytest.approx(CONFIG.lr)  # after warm-up


def test_training_leaves_nothing_behind_but_weights(loaded, encoded, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = with_lora(loaded)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    finetune(model, encoded, CONFIG, 0)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert before == after
    assert model.config.use_cache
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_zero_steps_train_nothing(loaded, encoded):
    model = with_lora(loaded)
    before = weights(model)
    config = TrainConfig(steps=0)
    log = finetune(model, encoded, config, 0, on_evaluate=lambda step: 0.5)
    assert same(before, weights(model))
    assert (log.losses, log.curve) == ([], [(0, 0.5)])


def test_distillation_loss_is_the_mean_kl_per_answer_token(tiny, loaded, encoded):
    teacher = load(tiny("llama", num_hidden_layers=3)).model
    batch = pad_right(encoded[:3], "cpu")
    with torch.no_grad():
        found = DistillationLoss(teacher)(loaded.model, *batch).item()
        total, n = 0.0, 0
        for ids, labels in encoded[:3]:
            p = teacher(torch.tensor([ids])).logits[0].double().softmax(-1)
            q = loaded.model(torch.tensor([ids])).logits[0].double().softmax(-1)
            for place in range(1, len(ids)):
                if labels[place] != -100:
                    total += float((p[place - 1] * (p[place - 1] / q[place - 1]).log()).sum())
                    n += 1
        itself = DistillationLoss(loaded.model)(loaded.model, *batch).item()
    assert found == pytest.approx(total / n, rel=1e-5)
    assert itself == pytest.approx(0, abs=1e-6)


def test_distillation_compares_the_words_that_padded_vocabularies_share(tiny, loaded, encoded):
    """Rows of padding in either model: the distance is that of the distributions over 40 words."""
    padded = load(tiny("llama", num_hidden_layers=3, vocab_size=48)).model
    batch = pad_right(encoded[:3], "cpu")
    with torch.no_grad():
        for teacher, student in ((padded, loaded.model), (loaded.model, padded)):
            found = DistillationLoss(teacher, 40)(student, *batch).item()
            (p, _), (q, _) = (answer_logits(m, *batch) for m in (teacher, student))
            p, q = p[:, :40].double().softmax(-1), q[:, :40].double().softmax(-1)
            assert found == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-5)


def test_the_arm_distill_allows_rows_of_padding_and_refuses_other_words(tiny):
    lab = make_lab(tiny, vocab_size=48)
    assert lab.teacher_spec.vocab_size == 40
    assert Distill().build(lab, 0).loss.n_words == 36
    other = copy.deepcopy(lab.tokenizer)
    other.add_tokens(["zebra"])
    with pytest.raises(BadInput, match="two tokenizers differ: 37 tokens in the teacher and 36"):
        Distill().build(dataclasses.replace(lab, teacher_tokenizer=other), 0)


def test_grouped_batches_hold_every_sample_once_and_less_padding():
    lengths = np.random.default_rng(0).integers(5, 300, size=50).tolist()

    def padding(batches):
        return sum(
            max(lengths[i] for i in b) * len(b) - sum(lengths[i] for i in b) for b in batches
        )

    plain, grouped = (sample_order(50, 26, 4, 0, given) for given in (None, lengths))
    for epoch in (grouped[:13], grouped[13:]):
        assert sorted(chain(*epoch)) == list(range(50))
        assert [len(batch) for batch in epoch] == [4] * 12 + [2]
    assert grouped[:13] != grouped[13:]
    assert padding(grouped) < padding(plain) / 3
    firsts = [max(lengths[i] for i in batch) for batch in grouped[:8]]
    assert firsts != sorted(firsts)  # short samples do not come first
    assert grouped == sample_order(50, 26, 4, 0, lengths)


@pytest.mark.parametrize("make", [with_lora, whole])
def test_a_batch_in_parts_takes_the_steps_of_the_whole(make, loaded, encoded, monkeypatch):
    """Batches of four as 2 + 2 (3 would fit) and one by one; answers differ in length."""
    expected = make(loaded)
    log = finetune(expected, encoded, CONFIG, 0)
    calls = []

    def counting(model, ids, labels):
        calls.append(len(ids))
        return answer_loss(model, ids, labels)

    for fit, sizes in ((3, {2}), (1, {1})):
        monkeypatch.setattr(micro_batches, "rows_at_once", lambda *_, fit=fit: fit)
        model = make(loaded)
        calls.clear()
        found = finetune(model, encoded, CONFIG, 0, loss=counting)
        assert set(calls) == sizes
        assert found.losses == pytest.approx(log.losses, rel=1e-5)
        for name, weight in weights(expected).items():
            torch.testing.assert_close(weights(model)[name], weight, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [with_lora, whole])
def test_activation_checkpointing_trains_the_same_weights(make, loaded, encoded):
    plain, frugal = make(loaded), make(loaded)
    first = finetune(plain, encoded, CONFIG, 0)
    config = CONFIG.model_copy(update={"activation_checkpointing": True})
    second = finetune(frugal, encoded, config, 0)
    assert first.losses == second.losses
    for name, weight in weights(plain).items():
        assert torch.equal(weights(frugal)[name], weight)
    assert all("forward" not in vars(module) for module in frugal.modules())


def test_activation_checkpointing_keeps_less_for_the_backward_pass(loaded, encoded):
    def kept(config):
        sizes = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        )
        with hooks:
            finetune(with_lora(loaded), encoded, config, 0)
        return sum(sizes)

    frugal = CONFIG.model_copy(update={"activation_checkpointing": True, "steps": 1})
    assert kept(frugal) < 0.6 * kept(CONFIG.model_copy(update={"steps": 1}))


@pytest.mark.parametrize(
    ("epochs", "n_samples", "steps"),
    [(1, 10, 3), (2.1, 10, 7), (2.5, 10, 8), (0.1, 10, 1), (3, 12, 9), (1.1, 40, 11)],
)
def test_an_epoch_that_is_begun_ends_with_a_whole_step(epochs, n_samples, steps):
    # 10 samples in batches of 4 are 3 steps; 1.1 · 10 is 11.000000000000002
    assert count_steps(TrainConfig(epochs=epochs, batch_size=4), n_samples) == steps


@pytest.mark.parametrize(
    ("warmup", "steps", "wanted"),
    [(0, 10, 0), (0.03, 10, 1), (0.2, 10, 2), (0.21, 10, 3), (0.07, 100, 7)],
)
def test_warm_up_reaches_the_rate_after_whole_steps(
    loaded, encoded, tmp_path, warmup, steps, wanted
):
    config = TrainConfig(steps=steps, batch_size=1, warmup=warmup, schedule="constant")
    shares = [step / wanted if step < wanted else 1.0 for step in range(steps + 1)]
    np.testing.assert_allclose(learning_rates(config), shares)
    if steps <= 10:
        progress = InMemoryProgress()
        finetune(with_lora(loaded), encoded, config, 0, tmp_path / "none", progress=progress)
        rates = [m["lr"] / config.lr for m in progress.metrics]  # those of the steps to come
        np.testing.assert_allclose(rates, shares[1:], atol=1e-9)


def test_generators_differ_by_seed_and_name_and_never_change():
    def first(seed, name=""):
        return generator(seed, name).initial_seed()

    seeds = (0, 1, 2, 31, 32, 33, 64, 2**16, 2**31, 2**32 - 1)
    assert len({first(seed, name) for seed in seeds for name in ("", "a", "ab")}) == 30
    assert first(-1) == first(2**32 - 1)
    assert first(2**32 + 7, "a") == first(7, "a")
    # What every recorded run rests on: NumPy promises that seed sequences never change.
    assert first(7, "a") == 3447617405717033089
    assert first(0) == 6569863346532939966


def test_inside_a_seed_all_three_libraries_draw_what_follows_from_it():
    def drawn(seed):
        with seeded(seed):
            return random.random(), float(np.random.random()), float(torch.rand(()))

    first, other = drawn(3), drawn(4)
    assert drawn(3) == first
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert drawn(-1) == drawn(-1)  # NumPy takes no negative seed


def test_the_teachers_answers_are_kept_as_long_as_they_fit(monkeypatch):
    width, asked = 7, []

    class Teacher:
        def states(self, ids, labels):
            asked.append(len(ids))
            answers = labels[:, 1:] != -100
            return ids[:, 1:][answers][:, None].expand(-1, width).double()[None]

    batch = [([i, 10 + i, 20 + i], [-100, -100, 20 + i]) for i in range(4)]
    size = width * 8  # one answer token each, in float64
    monkeypatch.setattr(training, "TEACHER_CACHE", 3 * size + size // 2)
    cache = training._TeacherCache()
    for part in (batch[:2], batch, batch, [batch[3], batch[0], batch[0]]):
        found = cache.of(Teacher(), part, torch.device("cpu"))
        assert found[0, :, 0].tolist() == [float(ids[-1]) for ids, _ in part]
    # Two, then the two new ones, and then again and again the one that found no room.
    assert asked == [2, 2, 1, 1]
    assert len(cache.known) == 3
    assert cache.bytes == sum(rows.untyped_storage().nbytes() for rows in cache.known.values())
