"""Networks as the quickstart reports them, with the accuracies that a test wants."""

from edgeseed.core.preprocess import Preprocess
from edgeseed.distill.evaluation.baseline import Baseline
from edgeseed.distill.evaluation.evaluate import EvaluationResult
from edgeseed.distill.evaluation.metric import Metric
from edgeseed.quickstart_result import Trained


def metric(name: str, top1_percent: float) -> Metric:
    """One accuracy of 450 test photos."""
    return Metric(
        name=name, top1_percent=top1_percent, top5_percent=None, standard_error_percent=1.0, n=450,
        num_train=1347, num_classes=10, protocol="p", settings={},
    )  # fmt: skip


def trained(name: str, baseline: Baseline | None = None, **top1: float) -> Trained:
    """A network; `knn_20=94.8` is its accuracy by the protocol `knn-20`."""
    evaluation = EvaluationResult(
        network=name, weights_digest="", data="digits", train_fingerprint="", test_fingerprint="",
        split="", seed=0, preprocess=Preprocess(image_size=32, resize=32), environment={},
        metrics=tuple(metric(key.replace("_", "-"), value) for key, value in top1.items()),
        baseline=baseline,
    )  # fmt: skip
    return Trained(name=name, what=f"net, {name}", seconds=40, epochs=3, evaluation=evaluation)
