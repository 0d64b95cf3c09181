"""The linear probe against a plain loop and scikit-learn, and how its rate is chosen."""

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.distill import clusters
from torch import Tensor, nn

from edgeseed.distill.evaluation.knn import top_accuracy
from edgeseed.distill.evaluation.linear import LinearSettings, probe_linearly, train_linear_probes

QUICK = LinearSettings(lrs=(0.01, 0.1), min_steps=60, epochs=1)


def _literal_probe(
    features: Tensor, labels: Tensor, *, lr: float, settings: LinearSettings, seed: int
) -> nn.Linear:
    """One rate, by autograd and torch.optim, on features standardised by hand."""
    mean, variance = features.mean(0), features.var(0, correction=0)
    deviation = (variance + 0.01 * variance.mean()).sqrt()
    inputs = (features - mean) / deviation
    layer = nn.Linear(features.shape[1], 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=settings.momentum)
    generator = torch.Generator().manual_seed(seed)
    epochs = settings.num_epochs(len(features))
    num_steps, step = epochs * math.ceil(len(features) / settings.batch_size), 0
    for _ in range(epochs):
        order = torch.randperm(len(features), generator=generator)
        for batch in order.split(settings.batch_size):
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / num_steps))
            optimizer.zero_grad()
            F.cross_entropy(layer(inputs[batch]), labels[batch]).backward()
            optimizer.step()
            step += 1
    with torch.no_grad():
        layer.weight.div_(deviation)
        layer.bias.sub_(layer.weight @ mean)
    return layer


def test_many_rates_at_once_are_each_the_plain_loop() -> None:
    features, labels = clusters(50, seed=0)
    features = 3 + 10 * features  # shifted and scaled, so that the standardisation matters
    settings = LinearSettings(lrs=(0.01, 0.1, 1.0), epochs=5, min_steps=1, batch_size=16)
    probes = train_linear_probes(features, labels, num_classes=3, settings=settings, seed=3)
    for index, lr in enumerate(settings.lrs):
        literal = _literal_probe(features, labels, lr=lr, settings=settings, seed=3)
        torch.testing.assert_close(probes.weight[index], literal.weight.data, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(probes.bias[index], literal.bias.data, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            probes.logits(features)[index], literal(features).detach(), atol=1e-4, rtol=1e-4
        )


def test_a_long_probe_finds_what_scikit_learn_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    features, labels = clusters(300, seed=0)
    test, test_labels = clusters(300, seed=1)
    settings = LinearSettings(
        lrs=(0.3,), epochs=400, min_steps=1, batch_size=300, weight_decay=0.01
    )
    probes = train_linear_probes(features, labels, num_classes=3, settings=settings, seed=0)
    mean, variance = features.mean(0), features.var(0, correction=0)
    deviation = (variance + 0.01 * variance.mean()).sqrt()
    # The same objective: C sums over photos where our weight decay is beside their mean.
    reference = LogisticRegression(C=1 / (0.01 * 300), max_iter=1000, tol=1e-8)
    reference.fit(((features - mean) / deviation).numpy(), labels.numpy())
    standardised = ((test - mean) / deviation).numpy()
    ours = probes.logits(test)[0].softmax(1)
    theirs = torch.from_numpy(reference.predict_proba(standardised)).float()
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
    expected = float(reference.score(standardised, test_labels.numpy()))
    assert top_accuracy(ours, test_labels, top=1) == pytest.approx(expected, abs=0.005)


def test_probes_are_blind_to_each_features_shift_and_to_the_scale_of_all() -> None:
    features, labels = clusters(60, seed=0)
    scale, shift = 1000.0, torch.linspace(-5, 5, 6)
    settings = dataclasses.replace(QUICK, lrs=(0.1,))
    plain, moved = (
        train_linear_probes(given, labels, num_classes=3, settings=settings, seed=0).logits(given)
        for given in (features, features * scale + shift)
    )
    torch.testing.assert_close(plain, moved, atol=2e-3, rtol=2e-3)


def test_a_feature_that_hardly_varies_is_not_blown_up() -> None:
    # Its weight was 1 / deviation: in int8, whose steps are the same for all features, the probe
    # then decided otherwise on three photos of ten.
    features, labels = clusters(60, seed=0)
    faint = 1e-3 * torch.randn(60, 1, generator=torch.Generator().manual_seed(1))
    features = torch.cat([features, faint], dim=1)
    probes = train_linear_probes(features, labels, num_classes=3, settings=QUICK, seed=0)
    assert probes.weight[:, :, 6].abs().amax() < 20 * probes.weight[:, :, :6].abs().amax()


def test_a_feature_that_never_changes_gets_no_weight() -> None:
    features, labels = clusters(60, seed=0)
    features = torch.cat([features, torch.full((60, 1), 0.1)], dim=1)
    probes = train_linear_probes(features, labels, num_classes=3, settings=QUICK, seed=0)
    assert torch.equal(probes.weight[:, :, 6], torch.zeros(2, 3))
    assert torch.isfinite(probes.bias).all()


def test_the_rate_is_chosen_without_the_test_photos() -> None:
    train, train_labels = clusters(90, seed=0)
    test, test_labels = clusters(60, seed=1)
    validation = torch.arange(90) % 5 == 0
    settings = LinearSettings(lrs=(1e-5, 0.01, 0.1, 30.0), epochs=4, min_steps=40)
    results = [
        probe_linearly(
            train,
            train_labels,
            test,
            labels,
            validation=validation,
            num_classes=3,
            settings=settings,
            seed=0,
        )
        for labels in (test_labels, (test_labels + 1) % 3)
    ]
    # Lying about the test labels changes the report and not the choice.
    assert results[0].chosen == results[1].chosen
    best = max(rate.validation_top1 for rate in results[0].rates)
    assert results[0].rates[results[0].chosen].validation_top1 == best
    assert results[0].rates != results[1].rates


def test_linear_settings_check_themselves() -> None:
    wrongs: list[dict[str, Any]] = [
        {"lrs": ()},
        {"lrs": (0.0,)},
        {"epochs": 0},
        {"validation_share": 1.0},
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LinearSettings(**wrong)


def test_small_sets_get_more_epochs() -> None:
    settings = LinearSettings(epochs=30, min_steps=1000, batch_size=256)
    assert settings.num_epochs(100) == 1000
    assert settings.num_epochs(1_000_000) == 30
