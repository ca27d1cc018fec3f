"""Local training: the steps of the papers, the same result every time, and the bound of differential privacy."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from site_data import CLASSES, image_site
from torch import nn

from imagingai.errors import Cancelled, InputError, JobFailed
from imagingai.federated import local
from imagingai.federated.config import ProjectConfig
from imagingai.federated.learner import build_network, open_learner
from imagingai.federated.local import class_weights, noise_seed, planned_noise, spent, steps_of, train_locally

FEATURES = ("a", "b", "c")


class Rows:
    """A learner of given rows, as simple as one can be."""

    def __init__(self, count: int, seed: int = 0, positive: int | None = None) -> None:
        random = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(count, len(FEATURES), generator=random)
        self.targets = (torch.arange(count) < (count // 2 if positive is None else positive)).long()
        self.examples, self.held_out = count, 0
        self.labels = {"well": int((self.targets == 0).sum()), "sick": int((self.targets == 1).sum())}

    def example(self, index, seed):
        return self.inputs[index], self.targets[index]

    def loss(self, network, inputs, targets, weights=None):
        each = F.cross_entropy(network(inputs), targets, reduction="none")
        return (each if weights is None else each * weights[targets]).mean()


def project(**settings) -> ProjectConfig:
    return ProjectConfig(task="roi-classification", features=FEATURES, classes=CLASSES, **settings)


def trained(learner, settings: ProjectConfig, network: nn.Module | None = None, **more) -> nn.Module:
    network = copy.deepcopy(network or build_network(settings))
    train_locally(network, learner, settings, **{"round": 1, "epochs": settings.epochs, **more})
    return network


def gradient(network, inputs, targets) -> list[torch.Tensor]:
    return torch.autograd.grad(F.cross_entropy(network(inputs), targets), list(network.parameters()))


def flat(network) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


# --- the methods


def test_mean_of_fedsgd_updates_is_one_step_on_all_data():
    settings = project(strategy="fedsgd", learning_rate=0.3, batch=4)  # smaller than the sites, which must not matter
    sites, start = [Rows(10, 1), Rows(6, 2, positive=1)], build_network(project())
    updates = [flat(trained(site, settings, start)) for site in sites]
    mean = (10 * updates[0] + 6 * updates[1]) / 16
    pooled = gradient(start, torch.cat([site.inputs for site in sites]), torch.cat([site.targets for site in sites]))
    expected = flat(start) - 0.3 * torch.cat([part.flatten() for part in pooled])
    torch.testing.assert_close(mean, expected)


def test_fedprox_follows_the_gradient_of_its_formula():
    settings = project(strategy="fedprox", proximal=0.5, learning_rate=0.2, batch=8)
    site, start = Rows(8), build_network(project())
    found = trained(site, settings, start, epochs=3.0)
    weights = copy.deepcopy(start)
    for _ in range(3):  # one step of all cases in each epoch
        parts = gradient(weights, site.inputs, site.targets)
        with torch.no_grad():
            for p, g, center in zip(weights.parameters(), parts, start.parameters(), strict=True):
                p -= 0.2 * (g + 0.5 * (p - center))
    torch.testing.assert_close(flat(found), flat(weights))
    assert not torch.allclose(flat(found), flat(trained(site, project(learning_rate=0.2, batch=8), start, epochs=3.0)), atol=1e-4)


def test_weights_of_fedsld_give_the_loss_of_the_federation():
    learner = Rows(8, positive=2)  # 6 well, 2 sick
    weights = class_weights(learner, [0.5, 0.5])
    torch.testing.assert_close(weights, torch.tensor([0.5 / 0.75, 0.5 / 0.25]))
    network = build_network(project())
    by_class = [learner.loss(network, learner.inputs[learner.targets == k], learner.targets[learner.targets == k]) for k in (0, 1)]
    torch.testing.assert_close(learner.loss(network, learner.inputs, learner.targets, weights), sum(by_class) / 2)


def test_a_class_that_a_site_does_not_have_has_no_weight():
    assert class_weights(Rows(4, positive=0), [0.5, 0.5]).tolist() == [0.5, 0.0]


@pytest.mark.parametrize("shares", [[0.5, 0.2, 0.3], [0.5, 0.6], [1.5, -0.5], []])
def test_shares_that_are_not_those_of_the_classes_are_refused(shares):
    with pytest.raises(InputError, match="shares of classes"):
        class_weights(Rows(4), shares)


def test_part_of_an_epoch_is_rounded_up_to_a_step():
    settings = project(batch=3)
    assert [steps_of(settings, 10, epochs) for epochs in (1, 0.5, 0.3, 2.5)] == [4, 2, 2, 10]
    told = []
    train_locally(build_network(settings), Rows(10), settings, round=2, epochs=0.5, report=lambda done, text: told.append((done, text)))
    assert [done for done, _ in told] == [0.5, 1.0]
    assert told[0][1].startswith("Round 2: step 1 of 2, loss ")


def test_every_epoch_shows_every_case_once_in_another_order():
    seen = []

    class Watched(Rows):
        def example(self, index, seed):
            seen.append(index)
            return super().example(index, seed)

    trained(Watched(7), project(batch=2), epochs=2.0)
    assert sorted(seen[:7]) == sorted(seen[7:]) == list(range(7))
    assert seen[:7] != seen[7:]


def test_figures_of_a_training():
    figures = train_locally(build_network(project()), Rows(8), project(), round=1, epochs=2.0)
    assert figures["epochs"] == 2 and figures["epsilon"] == 0 and figures["seconds"] > 0 and 0 < figures["loss"] < 3


def test_stop_in_the_middle():
    def stop(done, text):
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        train_locally(build_network(project()), Rows(8), project(), round=1, epochs=1.0, report=stop)


def test_training_that_diverges_is_told_in_one_sentence():
    site = Rows(8)
    site.inputs[3] = float("inf")
    with pytest.raises(JobFailed, match=r"diverged in round 1: the loss is (nan|inf)"):
        trained(site, project())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_same_round_gives_the_same_weights_bit_for_bit(tmp_path, optimizer):
    """Also with random changes of the images and dropout, and whatever torch drew before."""
    inputs = image_site(tmp_path, count=4)
    settings = ProjectConfig(classes=("left", "right half"), model="dropout", dimension=2, patch=(16,), batch=2, optimizer=optimizer)
    learner = open_learner(settings, {name: inputs[name] for name in ("images", "labels")})
    first = trained(learner, settings, learner.network)
    torch.rand(17)
    assert torch.equal(flat(first), flat(trained(learner, settings, learner.network)))
    assert not torch.equal(flat(first), flat(trained(learner, settings, learner.network, round=2)))


# --- differential privacy


def test_noise_keeps_all_rounds_within_epsilon():
    settings = project(epsilon=3.0, rounds=5, epochs=2.0, batch=4)
    assert 2.9 < spent(settings, 30, 5) <= 3.0
    steps = [train_locally(build_network(settings), Rows(30), settings, round=k, epochs=2.0)["epsilon"] for k in (1, 2, 5)]
    assert steps == sorted(steps) and steps[-1] == spent(settings, 30, 5)
    assert planned_noise(settings, 300) < planned_noise(settings, 30)  # a case among many needs less noise


@pytest.fixture
def no_noise(monkeypatch):
    monkeypatch.setattr(local, "planned_noise", lambda project, examples: 0.0)
    monkeypatch.setattr(local, "spent", lambda project, examples, trained: 0.0)


@pytest.mark.parametrize("batch", [8, 3])
def test_gradient_of_every_case_is_clipped(no_noise, batch):
    settings = project(epsilon=3.0, clip=0.1, learning_rate=1.0, batch=batch, strategy="fedsgd")  # all cases, once
    learner, start = Rows(8), build_network(project())
    total = torch.zeros_like(flat(start))
    for case in range(8):
        one = torch.cat([g.flatten() for g in gradient(start, learner.inputs[case : case + 1], learner.targets[case : case + 1])])
        assert one.norm() > 0.1
        total += one * 0.1 / one.norm()
    torch.testing.assert_close(flat(start) - flat(trained(learner, settings, start)), total / 8, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("network", ["fast", "light", "dropout", "probabilistic", "small"])
def test_gradients_of_single_cases_add_up_to_that_of_all(no_noise, tmp_path, network):
    """In every network that can be private: without clipping and noise it is plain training."""
    inputs = image_site(tmp_path, count=4)
    common = {"dimension": 2, "patch": (24,), "strategy": "fedsgd", "learning_rate": 1.0, "augmentation": "none"}
    if network == "small":
        common, other = {**common, "task": "image-classification", "classes": CLASSES}, "table"
    else:
        size = {"network": network} if network in ("fast", "light") else {"model": network}
        common, other = {**common, "classes": ("left", "right half"), **size}, "labels"
    learner = open_learner(ProjectConfig(**common), {"images": inputs["images"], other: inputs[other]})
    plain = flat(trained(learner, ProjectConfig(**common), learner.network))
    private = flat(trained(learner, ProjectConfig(**common, epsilon=3.0, clip=1000.0), learner.network))
    assert not torch.allclose(plain, flat(learner.network), atol=1e-3)
    torch.testing.assert_close(private, plain, atol=1e-4, rtol=1e-3)


def test_one_case_moves_the_weights_no_more_than_the_bound(no_noise):
    settings = project(epsilon=3.0, clip=0.5, learning_rate=1.0, strategy="fedsgd")
    site, other, start = Rows(10), Rows(10), build_network(project())
    other.inputs[4] = 1e6
    moved = flat(trained(site, settings, start)) - flat(trained(other, settings, start))
    assert 0 < moved.norm() <= 2 * 0.5 / 10
    plain = project(learning_rate=1.0, strategy="fedsgd")
    assert (flat(trained(site, plain, start)) - flat(trained(other, plain, start))).norm() > 1e4


def test_noise_has_the_planned_size():
    settings = project(epsilon=1.0, strategy="fedsgd", learning_rate=1.0, clip=0.5, network="mlp")
    site, start = Rows(20), build_network(settings)
    one, two = (flat(trained(site, settings, start, secret=secret)) for secret in (1, 2))
    deviation = float((one - two).std() / 2**0.5)
    assert deviation == pytest.approx(planned_noise(settings, 20) * 0.5 / 20, rel=0.15)


def test_noise_follows_from_secret_round_and_received_weights():
    settings, site = project(epsilon=5.0, strategy="fedsgd"), Rows(12)
    start = build_network(settings)
    first = flat(trained(site, settings, start, secret=7))
    assert torch.equal(first, flat(trained(site, settings, start, secret=7)))  # the same message again tells nothing new
    assert not torch.equal(first, flat(trained(site, settings, start, secret=8)))
    assert not torch.equal(flat(trained(site, settings, start)), flat(trained(site, settings, start)))  # without one: of the system
    moved = copy.deepcopy(start)
    with torch.no_grad():
        next(moved.parameters()).add_(1e-6)
    assert len({noise_seed(start, 7, 1), noise_seed(moved, 7, 1), noise_seed(start, 7, 2), noise_seed(start, 8, 1)}) == 4


def test_cases_of_a_private_step_are_drawn_one_by_one(no_noise):
    """So that some steps have none."""
    settings = project(epsilon=5.0, batch=1)
    drawn = []

    class Watched(Rows):
        def example(self, index, seed):
            drawn.append(index)
            return super().example(index, seed)

    figures = train_locally(build_network(settings), Watched(40), settings, round=1, epochs=1.0, secret=1)
    assert 15 < len(drawn) < 70 and figures["loss"] > 0  # Poisson samples, 1 of 40 in the mean, 40 times


def test_network_is_itself_again_after_private_training(tmp_path):
    inputs = image_site(tmp_path, count=4)
    settings = ProjectConfig(classes=("left", "right half"), dimension=2, patch=(16,), epsilon=5.0, rounds=1, strategy="fedprox")
    learner = open_learner(settings, {name: inputs[name] for name in ("images", "labels")})
    before = dict(learner.network.state_dict())
    network = trained(learner, settings, learner.network)
    assert list(network.state_dict()) == list(before) and not any(hasattr(p, "grad_sample") for p in network.parameters())
    trained(learner, project(), network)  # and can be trained without


def test_what_cannot_be_private_is_refused():
    with pytest.raises(InputError, match="is too low for 2 steps on 8 cases"):
        planned_noise(project(epsilon=1e-6, rounds=2), 8)
    with pytest.raises(InputError, match=r"2 epochs were asked for, and the privacy budget is for 1 in a round"):
        trained(Rows(8), project(epsilon=3.0), epochs=2.0)
    with pytest.raises(InputError, match="--network resnet10 has layers in which the gradient of a single case is not known"):
        build_network(ProjectConfig(task="image-classification", classes=CLASSES, network="resnet10", epsilon=3.0))
