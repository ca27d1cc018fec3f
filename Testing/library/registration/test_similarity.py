"""Every similarity against an independent value, every gradient against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate1d, uniform_filter

from imagingai.errors import InputError
from imagingai.registration import config
from imagingai.registration.intensity import EPSILON, PatchCorrelation, mind, mind_features, mse, ncc, ncc_sup, nmi
from imagingai.registration.similarity import (
    SIMILARITIES,
    Settings,
    WarpedFeatureCosine,
    deepsim,
    similarity_map,
    sum_terms,
    warpable_features,
)

SHAPES = [(9, 8), (7, 6, 8)]


def random_pair(shape, channels=1, seed=0):
    """Two images that have something in common."""
    random = np.random.default_rng(seed)
    a, b = random.random((2, 1, channels, *shape))
    return torch.from_numpy(a), torch.from_numpy(0.5 * a + 0.5 * b)


def features(image):
    """A small pyramid: fixed random convolutions of stride 2 and 4."""
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 1, *[2] * (image.ndim - 2))))
    conv = torch.nn.functional.conv3d if image.ndim == 5 else torch.nn.functional.conv2d
    fine = torch.tanh(conv(image, weights.to(image.dtype), stride=2))
    return [fine, torch.tanh(conv(fine[:, :1], weights.to(image.dtype), stride=2))]


CASES = {name: Settings(bins=12, features=features, levels=(0, 1)) for name in SIMILARITIES}
CASES["deepsim_seg"] = Settings(features=features, extract_first=True, levels=(1,))


def test_the_choices_of_the_config_are_the_rows_of_the_table():
    assert tuple(SIMILARITIES) == config.SIMILARITIES


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_gradient_equals_finite_differences(name, shape):
    fixed, moving = random_pair(shape, 3 if name == "ncc_sup" else 1)
    term = SIMILARITIES[name](fixed, moving, CASES[name])
    moved = 0.9 * term.moving + 0.05 * term.moving.mean()  # inside the range of gray values, where nmi is smooth
    gradient = term.gradient(moved.clone())
    random, step = np.random.default_rng(2), 1e-5
    corners = [tuple([0] * moved.ndim), tuple(n - 1 for n in moved.shape)]
    for where in [*corners, *((0, *(random.integers(n) for n in moved.shape[1:])) for _ in range(12))]:
        values = []
        for sign in (1, -1):
            shifted = moved.clone()
            shifted[where] += sign * step
            values.append(term.map(shifted).mean() * fixed[0, 0].numel())
        expected = (values[0] - values[1]) / (2 * step)
        assert torch.isclose(gradient[where], expected, rtol=2e-3, atol=2e-5), (where, float(gradient[where]), float(expected))


def test_mse_is_the_mean_squared_difference():
    fixed, moved = random_pair((5, 6))
    assert float(mse(fixed, moved)) == pytest.approx(((fixed - moved).numpy() ** 2).mean())


@pytest.mark.parametrize("shape", SHAPES)
def test_ncc_of_every_window_also_at_the_border(shape):
    fixed, moved = random_pair(shape)
    found = similarity_map("ncc", fixed, moved, Settings(radius=2))[0, 0]
    for where in np.ndindex(*shape):
        window = tuple(slice(max(0, k - 2), k + 3) for k in where)
        a, b = (image[0, 0].numpy()[window] for image in (fixed, moved))
        covariance = ((a - a.mean()) * (b - b.mean())).mean()
        covariance += np.copysign(EPSILON, covariance)
        assert float(found[where]) == pytest.approx(1 - covariance**2 / ((a.var() + EPSILON) * (b.var() + EPSILON)), abs=1e-9)


def test_ncc_is_the_same_slab_by_slab(monkeypatch):
    fixed, moved = random_pair((23, 6, 5))
    term = PatchCorrelation(fixed, moved, 2)
    whole = term.map(moved), term.gradient(moved)
    monkeypatch.setattr("imagingai.registration.intensity.SLAB", 4 * 6 * 5)
    term = PatchCorrelation(fixed, moved, 2)
    assert torch.allclose(term.map(moved), whole[0], atol=1e-12)
    assert torch.allclose(term.gradient(moved), whole[1], atol=1e-10)


def test_identical_images_have_no_force():
    image = random_pair((9, 10))[0]
    for name in ("mse", "ncc", "mind"):
        term = SIMILARITIES[name](image, image.clone(), Settings())
        assert term.map(term.moving).abs().max() < 1e-9
        assert term.gradient(term.moving).abs().max() < 1e-9


def test_ncc_averages_channels():
    fixed, moved = random_pair((6, 7), channels=3)
    each = [float(ncc(fixed[:, k : k + 1], moved[:, k : k + 1])) for k in range(3)]
    assert float(ncc(fixed, moved)) == pytest.approx(np.mean(each))


def test_ncc_equals_monai_inside(monkeypatch):
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    monkeypatch.setattr("imagingai.registration.intensity.EPSILON", 1e-8)  # MONAI's floor is next to nothing
    fixed, moved = (image.float() for image in random_pair((12, 12, 12)))
    theirs = LocalNormalizedCrossCorrelationLoss(kernel_size=5, reduction="none", smooth_nr=0, smooth_dr=1e-8)(moved, fixed)
    inner = (..., slice(2, -2), slice(2, -2), slice(2, -2))
    ours = similarity_map("ncc", fixed, moved, Settings(radius=2)) - 1
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=1e-4)


def entropy(p):
    return -(p[p > 0] * np.log(p[p > 0])).sum()


def test_nmi_equals_a_histogram(monkeypatch):
    """Gray values at the centers of bins: the histogram of the moved image is that of numpy, smoothed by 1 4 1."""
    random = np.random.default_rng(0)
    a = random.integers(0, 10, 4000)
    b = np.where(random.random(4000) < 0.7, a, random.integers(0, 10, 4000))
    a[:2] = b[:2] = 0, 9
    plain = np.histogram2d(a, b, bins=10, range=((0, 10), (0, 10)))[0] / 4000
    joint = correlate1d(np.pad(plain, ((0, 0), (1, 1))), [1 / 6, 4 / 6, 1 / 6], axis=1, mode="constant")
    expected = 2 - (entropy(joint.sum(1)) + entropy(joint.sum(0))) / entropy(joint)
    # 12 bins: 9 intervals between the moved values 0 and 9; the fixed values 0 to 9 fall into 10 of the 12 bins.
    fixed, moved = (torch.from_numpy(x / 9.0).view(1, 1, 40, 100) for x in (a, b))
    assert float(nmi(fixed, moved, bins=12)) == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr("imagingai.registration.intensity.SLAB", 300)
    assert float(nmi(fixed, moved, bins=12)) == pytest.approx(expected, abs=1e-6), "part by part"


def test_nmi_is_one_for_independent_images_and_small_for_identical_ones():
    a, b = torch.rand(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    assert float(nmi(a, b, 8)) == pytest.approx(1, abs=0.02)
    assert float(nmi(a, a, 32)) < 0.6 < float(nmi(a, b, 32))


def test_mind_of_a_voxel_by_hand():
    image = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    image[0, 0, 6, 4] = 1.0  # the neighbor two below the center; radius 0 compares single voxels
    descriptor = mind_features(image, distance=2, radius=0)[0, :, 4, 4]
    # Pairs (up, left), (up, right), (down, left), (down, right): squared differences 0, 0, 1, 1; their mean is 0.5.
    np.testing.assert_allclose(descriptor, np.exp([0, 0, -2, -2]), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_mind_by_numpy(shape):
    image = random_pair(shape)[0][0, 0].numpy()
    padded, size = np.pad(image, 2, mode="edge"), len(shape)
    steps = [sign * 2 * np.eye(size, dtype=int)[axis] for axis in range(size) for sign in (-1, 1)]
    shifted = [padded[tuple(slice(2 + s, 2 + s + n) for s, n in zip(step, shape, strict=True))] for step in steps]
    pairs = [(i, j) for i in range(2 * size) for j in range(i + 1, 2 * size) if i // 2 != j // 2]
    distances = np.stack([uniform_filter((shifted[i] - shifted[j]) ** 2, 3, mode="constant") for i, j in pairs])
    distances -= distances.min(0)
    found = mind_features(torch.from_numpy(image)[None, None])[0].numpy()
    np.testing.assert_allclose(found, np.exp(-distances / distances.mean(0)), rtol=1e-6)


def test_mind_is_the_same_slab_by_slab(monkeypatch):
    image = random_pair((23, 6, 5))[0]
    whole = mind_features(image)
    monkeypatch.setattr("imagingai.registration.intensity.SLAB", 1)
    assert torch.allclose(mind_features(image), whole, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_contrast_does_not_matter_to_ncc_nmi_mind(shape):
    fixed, moved = random_pair(shape)
    inverted = 3 - 2 * moved
    assert float(ncc(fixed, moved)) == pytest.approx(float(ncc(fixed, inverted)), abs=0.02)
    assert float(mind(fixed, moved)) == pytest.approx(float(mind(fixed, inverted)), abs=1e-6)
    a, b = (torch.rand(2, 1, 1, 40, 40, generator=torch.Generator().manual_seed(0)).double()) ** 2
    assert float(nmi(a, a + b)) == pytest.approx(float(nmi(a, 3 - 2 * (a + b))), abs=1e-6)


def test_mind_has_twelve_channels_in_3d_and_four_in_2d():
    assert mind_features(torch.rand(1, 1, 6, 6, 6)).shape == (1, 12, 6, 6, 6)
    assert mind_features(torch.rand(1, 1, 6, 6)).shape == (1, 4, 6, 6)


def test_deepsim_is_zero_for_identical_and_one_for_orthogonal_features():
    a = torch.zeros(1, 2, 4, 4)
    b = a.clone()
    a[:, 0], b[:, 1] = 2, 3
    assert float(deepsim([a, a], [5 * a, a])) == pytest.approx(0, abs=1e-6)
    assert float(deepsim([a], [b])) == pytest.approx(1)
    assert float(deepsim([a, a], [a, b])) == pytest.approx(0.5, abs=1e-6), "the mean over levels, paper 1 eq. 12"


def test_warp_then_extract_is_equation_12():
    fixed, moved = random_pair((8, 12))
    expected = deepsim(features(fixed), features(moved))
    assert float(similarity_map("deepsim_ae", fixed, moved, CASES["deepsim_ae"]).mean()) == pytest.approx(float(expected))


def test_fewer_components_keep_the_cosines_of_features_that_have_no_more():
    fixed, moving = random_pair((8, 12))
    mixed = Settings(features=lambda image: [torch.cat([level, level.flip(1), 2 * level], 1) for level in features(image)], levels=(0, 1))
    first, second, sizes = warpable_features(fixed, moving, mixed, components=4)
    assert sizes == [4, 4] and first.shape == second.shape == (1, 8, 8, 12)
    full = [[F.interpolate(level, (8, 12), mode="bilinear") for level in mixed.features(image)] for image in (fixed, moving)]
    expected = sum(1 - F.cosine_similarity(a, b, dim=1) for a, b in zip(*full, strict=True)) / 2
    np.testing.assert_allclose(WarpedFeatureCosine(first, second, sizes).map(second)[0], expected, atol=1e-6)


def test_ncc_sup_adds_the_share_of_wrong_labels():
    image = random_pair((8, 10))[0]
    labels = torch.from_numpy(np.eye(4)[np.random.default_rng(0).integers(0, 4, (8, 10))]).permute(2, 0, 1)[None]
    wrong = labels.clone()
    wrong[..., :4] = labels[..., :4].roll(1, 1)  # another label in 4 of 10 columns
    fixed, moved = torch.cat([image, labels], 1), torch.cat([image, wrong], 1)
    assert float(ncc_sup(fixed, moved)) == pytest.approx(float(ncc(image, image)) + 0.4)
    assert float(similarity_map("ncc_sup", fixed, moved).mean()) == pytest.approx(float(ncc_sup(fixed, moved)))


FUNCTIONS = {"mse": mse, "ncc": ncc, "mind": mind, "ncc_sup": ncc_sup, "deepsim": lambda a, b: deepsim(features(a), features(b))}


@pytest.mark.parametrize("shape", [(6, 8), (4, 4, 5)])
@pytest.mark.parametrize("name", [*FUNCTIONS, "nmi"])
def test_the_functions_train_networks(name, shape):
    """Differentiable, in batches, with respect to both images (nmi: the moved one, within its range of gray values)."""
    channels = 3 if name == "ncc_sup" else 1
    pairs = [random_pair(shape, channels, seed) for seed in (0, 1)]
    fixed, moved = (torch.cat(images).requires_grad_() for images in zip(*pairs, strict=True))
    if name == "nmi":
        moved = moved.detach()
        free = (0.9 * moved + 0.05 * moved.mean()).requires_grad_()
        ends = torch.stack([moved.min(), moved.max()]).view(1, 1, -1, *[1] * (len(shape) - 1)).expand(2, 1, 2, *shape[1:])
        enlarged = lambda x: torch.cat([x, ends], 2)  # noqa: E731
        assert torch.autograd.gradcheck(lambda x: nmi(enlarged(fixed.detach()), enlarged(x), 8), free, eps=1e-4, atol=1e-4)
    else:
        assert torch.autograd.gradcheck(FUNCTIONS[name], (fixed, moved), atol=1e-5)


def test_a_sum_is_the_sum_of_its_terms():
    fixed, moving = random_pair((8, 8), channels=3)  # an image and two labels
    terms = sum_terms("ncc_sup+0.5*mind", fixed, moving)
    assert [weight for weight, _ in terms] == [1, 0.5]
    assert terms[1][1].moving.shape == (1, 4, 8, 8), "mind leaves the labels out"
    expected = similarity_map("ncc_sup", fixed, moving) + 0.5 * similarity_map("mind", fixed[:, :1], moving[:, :1])
    assert torch.allclose(similarity_map("ncc_sup+0.5*mind", fixed, moving), expected)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_constant_images_give_finite_values_and_no_gradient(name):
    image = torch.full((1, 2 if name == "ncc_sup" else 1, 8, 8), 0.3).double()
    term = SIMILARITIES[name](image, image.clone(), CASES[name])
    assert torch.isfinite(term.map(term.moving)).all()
    assert term.gradient(term.moving).abs().max() < 1e-5


@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_map_has_the_shape_of_the_image_and_is_smallest_for_a_match(name):
    fixed, moving = random_pair((8, 8), 2 if name == "ncc_sup" else 1)
    different = similarity_map(name, fixed, moving, CASES[name])
    same = similarity_map(name, fixed, fixed.clone(), CASES[name])
    assert different.shape == (1, 1, 8, 8)
    assert same.mean() < different.mean()


def test_errors():
    image = torch.rand(1, 1, 8, 8)
    with pytest.raises(InputError, match="deepsim needs a feature extractor: give --features"):
        SIMILARITIES["deepsim_seg"](image, image, Settings())
    with pytest.raises(InputError, match="--deepsim-levels 2: the extractor has the levels 0 to 1"):
        SIMILARITIES["deepsim_seg"](image, image, Settings(features=features, levels=(0, 2)))
    with pytest.raises(InputError, match="fixed image has 1 channels, the moving one 1"):
        SIMILARITIES["ncc_sup"](image, image, Settings())
    with pytest.raises(InputError, match="--similarity has no choice 'ssd'"):
        similarity_map("ncc+ssd", image, image)
