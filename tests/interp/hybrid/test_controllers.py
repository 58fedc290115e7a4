"""Controllers and their controls, by brute force."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from interp.hybrid.controllers import (
    Categories,
    at_disagreements,
    of_least_similar_category,
    of_random_category,
    probe_categories,
)
from interp.hybrid.decode import View
from interp.hybrid.vectors import SteeringVectors

GENERATOR = torch.Generator().manual_seed(0)
VIEW = View(
    3,
    torch.randn(400, 9, generator=GENERATOR),
    torch.randn(400, 5, generator=GENERATOR),
    torch.randn(400, 9, generator=GENERATOR) * 2,
    torch.randn(400, 5, generator=GENERATOR),
    torch.rand(400, generator=GENERATOR),
)
CATEGORIES = Categories(tuple("abcd"), lambda x: x[..., :4].argmax(-1))


def test_a_margin_keeps_the_clear_disagreements_only():
    base, thinking = VIEW.base_logits.numpy(), VIEW.thinking_logits.double().softmax(-1).numpy()
    own, wanted = base.argmax(1), thinking.argmax(1)
    rows = np.arange(400)
    for margin in (0.0, 0.3, 0.7):
        expected = (own != wanted) & (thinking[rows, wanted] - thinking[rows, own] >= margin)
        found = at_disagreements("d", CATEGORIES, margin).when(VIEW)
        assert found.numpy().tolist() == expected.tolist()


def test_the_least_similar_category_has_the_smallest_cosine_and_a_vector():
    shift = torch.randn(4, 5, generator=GENERATOR)
    shift[3] = 0
    vectors = SteeringVectors("m", 0, CATEGORIES.names, shift, torch.zeros(5))
    controller = at_disagreements("d", CATEGORIES)
    found = of_least_similar_category(controller, vectors).which(VIEW)
    for category, other in zip(controller.which(VIEW).tolist(), found.tolist(), strict=True):
        cosines = [
            float(torch.cosine_similarity(shift[category], shift[k], dim=0)) for k in range(3)
        ]
        assert other == (3 if category == 3 else int(np.argmin(cosines)))


def test_random_categories_are_even_over_those_with_vectors_and_keep_the_moments():
    controller = at_disagreements("d", CATEGORIES)
    shift = torch.ones(4, 5) * torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None]
    vectors = SteeringVectors("m", 0, CATEGORIES.names, shift, torch.zeros(5))
    random = of_random_category(controller, vectors)
    assert torch.equal(random.when(VIEW), controller.when(VIEW))
    own, found = controller.which(VIEW), random.which(VIEW)
    idle = torch.isin(own, torch.tensor([1, 3]))
    assert torch.equal(found[idle], own[idle])  # nothing is steered there, so it stays so
    counts = torch.bincount(found[~idle], minlength=4) / (~idle).sum()
    assert counts[1] == counts[3] == 0
    assert 0.4 < counts[0] < 0.6


def test_the_probe_says_what_scikit_learn_says():
    x = torch.randn(300, 6, generator=GENERATOR) * 30 + 5
    for n in (2, 3):
        labels = [f"b{int(i)}" for i in x[:, :n].argmax(1)]
        found = probe_categories(x, labels)
        scaled = StandardScaler().fit_transform(x.numpy())
        expected = LogisticRegression(max_iter=300).fit(scaled, labels).predict(scaled)
        assert [found.names[i] for i in found.read(x).tolist()] == expected.tolist()
