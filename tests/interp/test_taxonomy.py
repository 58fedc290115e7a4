"""Taxonomies find planted categories, and their scores equal slow formulas."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, f1_score

from interp.errors import UserError
from interp.taxonomy import (
    Taxonomy,
    agreement,
    choose,
    completeness,
    consistency,
    fit_kmeans,
    fit_sae,
    orthogonality,
)

FITS = {"topk-sae": fit_sae, "spherical-k-means": fit_kmeans}
BEHAVIORS = np.array(["aim", "check", "deduce", "doubt", "undo", "answer"])


def planted(seed=0, n=900, n_clusters=6, d_model=24, noise=0.15):
    """Rows around `n_clusters` directions with different lengths, far from the origin."""
    generator = np.random.default_rng(seed)
    centers = np.linalg.qr(generator.normal(size=(d_model, d_model)))[0][:n_clusters]
    truth = generator.integers(n_clusters, size=n)
    rows = centers[truth] + noise * generator.normal(size=(n, d_model)) / d_model**0.5
    groups = np.array([f"p{i // 9}" for i in range(n)])
    x = torch.from_numpy(5 + rows * generator.uniform(0.8, 1.2, size=(n, 1))).float()
    return x, groups, truth


def by_hand(taxonomy, x):
    """(unit rows, full codes, reconstruction) in float64, one row and one latent at a time."""
    tensors = (taxonomy.mean, taxonomy.encoder, taxonomy.bias, taxonomy.decoder, taxonomy.offset)
    mean, encoder, bias, decoder, offset = (t.double().numpy() for t in tensors)
    units, codes, rebuilt = [], [], []
    for row in x.double().numpy():
        unit = (row - mean) / np.sqrt(((row - mean) ** 2).sum())
        code = [float(np.dot(e, unit - offset)) + b for e, b in zip(encoder, bias, strict=True)]
        largest = sorted(range(len(code)), key=lambda i: -code[i])[: taxonomy.k]
        rebuilt.append(sum(code[i] * decoder[i] for i in largest) + offset)
        units.append(unit)
        codes.append(code)
    return np.array(units), np.array(codes), np.array(rebuilt)


@pytest.fixture(scope="module")
def data():
    return planted()


@pytest.fixture(scope="module")
def fitted(data):
    x, groups, _ = data
    return {name: fit(x, groups, 2, 6, model="m") for name, fit in FITS.items()}


@pytest.mark.parametrize("method", FITS)
def test_planted_clusters_are_found_on_rows_not_fitted(method, data):
    x, groups, truth = data
    found = FITS[method](x[:600], groups[:600], 2, 6)
    assert adjusted_mutual_info_score(truth[600:], found.categories(x[600:]).numpy()) > 0.98
    shuffled = np.random.default_rng(0).permutation(BEHAVIORS[truth])
    assert abs(agreement(found.categories(x), shuffled).ami) < 0.02


@pytest.mark.parametrize("method", FITS)
def test_categories_codes_and_fvu_equal_a_slow_formula(method, data, fitted):
    x, found = data[0], fitted[method]
    units, codes, rebuilt = by_hand(found, x)
    np.testing.assert_allclose(found.normalize(x).numpy(), units, atol=1e-5)
    np.testing.assert_allclose(found.encode(x).numpy(), codes, atol=1e-5)
    np.testing.assert_array_equal(found.categories(x).numpy(), codes.argmax(1))
    np.testing.assert_allclose(found.reconstruct(x).numpy(), rebuilt, atol=1e-5)
    fvu = ((units - rebuilt) ** 2).sum() / ((units - units.mean(0)) ** 2).sum()
    assert found.fvu == pytest.approx(fvu, rel=1e-4)
    assert found.unexplained(x[:50]) != found.fvu


@pytest.mark.parametrize("method", FITS)
def test_fields_say_what_was_fitted(method, data, fitted):
    found = fitted[method]
    assert (found.method, found.layer, found.model, found.n_categories) == (method, 2, "m", 6)
    assert found.k == (3 if method == "topk-sae" else 1)
    np.testing.assert_allclose(found.decoder.norm(dim=1).numpy(), 1, atol=1e-5)


@pytest.mark.parametrize("method", FITS)
def test_the_mean_weighs_every_group_the_same(method):
    x, groups, _ = planted(n=200)
    groups = np.where(np.arange(200) < 150, "long", groups)
    means = [x[torch.from_numpy(groups == g)].double().mean(0).numpy() for g in np.unique(groups)]
    mean = FITS[method](x, groups, 0, 4).mean.numpy()
    np.testing.assert_allclose(mean, np.mean(means, axis=0), atol=1e-5)
    assert np.abs(mean - x.mean(0).numpy()).max() > 1e-3


@pytest.mark.parametrize("method", FITS)
def test_categories_do_not_depend_on_length_after_centering(method, data, fitted):
    x, found = data[0], fitted[method]
    scale = torch.rand(len(x), 1, generator=torch.Generator().manual_seed(0)) * 9 + 0.1
    scaled = found.mean + scale * (x - found.mean)
    assert torch.equal(found.categories(scaled), found.categories(x))


@pytest.mark.parametrize("method", FITS)
def test_rows_of_any_shape_and_precision_have_categories(method, data, fitted):
    x, found = data[0][:24], fitted[method]
    flat = found.categories(x)
    assert torch.equal(found.categories(x.view(2, 3, 4, -1)), flat.view(2, 3, 4))
    assert found.categories(x[0]).item() == flat[0].item()
    rounded = x.bfloat16()
    assert torch.equal(found.categories(rounded), found.categories(rounded.float()))


def test_the_sae_rebuilds_sparse_data_of_its_own_rank():
    """Each row is a positive mix of 3 of 10 orthogonal directions: 10 latents with k=3 suffice."""
    generator = np.random.default_rng(1)
    parts = np.linalg.qr(generator.normal(size=(32, 32)))[0][:10]
    weights = np.zeros((2000, 10))
    for row in weights:
        row[generator.choice(10, 3, replace=False)] = generator.uniform(0.5, 1.5, 3)
    x, groups = torch.from_numpy(weights @ parts).float(), np.arange(2000) // 10
    found = fit_sae(x, groups, 0, 10)
    assert found.fvu < 0.1 < fit_kmeans(x, groups, 0, 10).fvu
    assert fit_sae(x, groups, 0, 10, k=1).fvu > 0.3


def test_training_lowers_the_unexplained_variance(data):
    x, groups, _ = data
    started, trained = (fit_sae(x, groups, 0, 8, max_epochs=n).fvu for n in (0, 300))
    assert trained < 0.95 * started


def test_no_latent_is_dead():
    x, groups, _ = planted(n=1000, noise=1.0)
    found = fit_sae(x, groups, 0, 16)
    assert len(found.encode(x).topk(3).indices.unique()) == 16


def test_k_means_is_as_good_as_scikit_learns():
    x, groups, _ = planted(n=1500, noise=2.0)
    found = fit_kmeans(x, groups, 0, 6)
    units = found.normalize(x).double().numpy()
    other = KMeans(6, n_init=10, random_state=0).fit(units).cluster_centers_
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    reached = (units @ found.decoder.double().numpy().T).max(1).sum()
    assert reached > 0.99 * (units @ other.T).max(1).sum()


def test_the_seed_fixes_the_fit(data):
    x, groups, _ = data
    noisy = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for fit in FITS.values():
        one, same, other = (fit(noisy, groups, 0, 9, seed=s) for s in (1, 1, 2))
        assert torch.equal(one.encoder, same.encoder) and one.fvu == same.fvu
        assert not torch.equal(one.encoder, other.encoder)


def test_advance_counts_all_epochs(data):
    counted = []
    fit_sae(data[0], data[1], 0, 5, max_epochs=40, advance=counted.append)
    assert sum(counted) == 40


@pytest.mark.parametrize("method", FITS)
def test_what_is_saved_is_loaded(method, fitted, data, tmp_path):
    found = fitted[method]
    found.save(tmp_path / "taxonomy.safetensors")
    loaded = Taxonomy.load(tmp_path / "taxonomy.safetensors")
    for field in fields(Taxonomy):
        ours, theirs = getattr(found, field.name), getattr(loaded, field.name)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
    assert torch.equal(loaded.categories(data[0]), found.categories(data[0]))


def test_another_file_is_refused(tmp_path):
    save_file({"mean": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no taxonomy"):
        Taxonomy.load(tmp_path / "x.safetensors")


def test_few_segments_of_one_group_can_be_fitted():
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    found = fit_sae(x, np.zeros(6, int), 0, 6)
    assert torch.isfinite(found.encoder).all() and 0 <= found.fvu < 0.2
    assert len(fit_kmeans(x, np.zeros(6, int), 0, 6).categories(x).unique()) == 6


def test_equal_segments_can_be_fitted():
    for fit in FITS.values():
        found = fit(torch.ones(20, 5), np.arange(20), 0, 3)
        assert torch.isfinite(found.encoder).all() and np.isfinite(found.fvu)


@pytest.mark.parametrize("method", FITS)
def test_bad_input_is_refused_in_one_sentence(method, data):
    x, groups, _ = data
    broken = x.clone()
    broken[3, 2] = torch.nan
    for given, match in [
        ((x, groups, 0, 1), "1 categories"),
        ((x[:7], groups[:7], 0, 8), "7 segments cannot make 8"),
        ((x, groups[1:], 0, 8), "899 groups for 900"),
        ((broken, groups, 0, 8), "1 activations are NaN"),
    ]:
        with pytest.raises(UserError, match=match):
            FITS[method](*given)


@pytest.mark.parametrize("k", [0, 5])
def test_a_k_that_cannot_be_kept_is_refused(k, data):
    with pytest.raises(UserError, match=f"k={k} of 4"):
        fit_sae(data[0], data[1], 0, 4, k=k)


def test_agreement_equals_scikit_learn_on_the_majority_vote():
    generator = np.random.default_rng(0)
    categories = generator.integers(8, size=400)
    right = generator.random(400) < 0.7
    labels = np.where(right, BEHAVIORS[categories % 5], BEHAVIORS[generator.integers(5, size=400)])
    unlabeled = np.append(labels, ["", ""])
    found = agreement(torch.from_numpy(np.append(categories, [0, 9])), unlabeled, 11)
    majority = []
    for category in range(11):
        inside = labels[categories == category].tolist()
        majority.append(max(sorted(set(inside)), key=inside.count) if inside else None)
        purity = inside.count(majority[-1]) / len(inside) if inside else 0
        assert found.purity[category] == pytest.approx(purity)
    assert found.majority == majority and majority[8:] == [None] * 3
    voted = [majority[c] for c in categories]
    for name in BEHAVIORS[:5]:
        assert found.f1[name] == pytest.approx(f1_score(labels == name, np.array(voted) == name))
    assert found.ami == pytest.approx(adjusted_mutual_info_score(labels, categories))


def test_a_behavior_without_a_category_has_f1_zero():
    found = agreement([0, 0, 0, 1], ["aim", "aim", "undo", "check"])
    assert found.f1 == {"aim": 0.8, "check": 1.0, "undo": 0.0}
    assert agreement([0, 1], ["aim", None]).majority == ["aim", None]


def test_agreement_refuses_what_it_cannot_compare():
    with pytest.raises(UserError, match="2 categories for 1 labels"):
        agreement([0, 1], ["aim"])
    with pytest.raises(UserError, match="No segment has a behavior"):
        agreement([0, 1], ["", ""])


def test_orthogonality_is_one_minus_the_mean_absolute_cosine(fitted):
    rows = fitted["topk-sae"].decoder.double().numpy()
    cosines = [abs(np.dot(a, b)) for i, a in enumerate(rows) for b in rows[:i]]
    assert orthogonality(fitted["topk-sae"]) == pytest.approx(1 - np.mean(cosines), abs=1e-5)
    basis = replace(fitted["topk-sae"], decoder=torch.eye(24)[:6])
    assert orthogonality(basis) == pytest.approx(1)


def written(n=1200, n_categories=5, seed=0):
    """Sentences whose first word is their category."""
    categories = np.random.default_rng(seed).integers(n_categories, size=n)
    return [f"{c} sentence {i}" for i, c in enumerate(categories)], categories


def same_word(examples, sentences):
    return [sentence.split()[0] == examples[0].split()[0] for sentence in sentences]


def test_an_exact_judge_gives_one_and_a_random_one_chance():
    sentences, categories = written()
    assert consistency(sentences, categories, same_word) == 1
    generator = np.random.default_rng(0)
    scores = [
        consistency(sentences, categories, lambda e, s: generator.random(len(s)) < 0.5, seed)
        for seed in range(8)
    ]
    chance = 2 * 0.2 * 0.5 / (0.2 + 0.5)  # precision 0.2, recall 0.5
    assert np.mean(scores) == pytest.approx(chance, abs=0.03)
    assert consistency(sentences, categories, lambda e, s: [False] * len(s)) == 0
    shuffled = np.random.default_rng(1).permutation(categories)
    assert consistency(sentences, shuffled, same_word) < 0.5


def test_the_consistency_judge_sees_what_it_should():
    sentences, categories = written()
    calls = []

    def judge(examples, tested):
        calls.append((examples, tested))
        return same_word(examples, tested)

    consistency(sentences, categories, judge, seed=3)
    assert len(calls) == 5
    for examples, tested in calls:
        assert len(examples) == 10 and len({e.split()[0] for e in examples}) == 1
        assert len(set(tested)) == 100 and not set(examples) & set(tested)
        inside = same_word(examples, tested)
        assert sum(inside) == 20 and not all(inside[:20])
    before, calls = calls, []
    consistency(sentences, categories, judge, seed=3)
    assert calls == before


def test_small_categories_keep_an_example_and_single_sentences_are_left_out():
    sentences = ["0 a", "0 b", "0 c", "1 a", "1 b", "1 c", "2 a"]
    assert consistency(sentences, [0, 0, 0, 1, 1, 1, 2], same_word) == 1
    with pytest.raises(UserError, match="No category has two sentences"):
        consistency(["a", "b"], [0, 1], same_word)


def test_completeness_is_the_mean_of_the_judges_scores():
    sentences, categories = written(n=150)

    def judge(examples, sentence):
        assert len(examples) == 10 and sentence not in examples
        assert {e.split()[0] for e in examples} == {sentence.split()[0]}
        return int(sentence.split()[-1]) / 200

    assert completeness(sentences, categories, judge) == pytest.approx(np.mean(range(150)) / 200)
    few = completeness(sentences, categories, judge, n=20)
    assert few != completeness(sentences, categories, judge, 1, n=20)


@pytest.mark.parametrize("answers", [[], [True], ["yes"] * 100, [0.5] * 100])
def test_a_wrong_answer_of_the_consistency_judge_is_refused(answers):
    with pytest.raises(UserError, match="judge must return 100 booleans"):
        consistency(*written(), lambda examples, tested: answers)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_wrong_score_of_the_completeness_judge_is_refused(score):
    with pytest.raises(UserError, match="from 0 to 1"):
        completeness(*written(), lambda examples, sentence: score)


def test_scores_refuse_lengths_that_differ():
    sentences, categories = written()
    with pytest.raises(UserError, match="1200 categories for 1199"):
        consistency(sentences[1:], categories, same_word)
    with pytest.raises(UserError, match="1200 categories for 1199"):
        completeness(sentences[1:], categories, lambda examples, sentence: 1.0)
    with pytest.raises(UserError, match="share of 1"):
        consistency(sentences, categories, same_word, share=1.0)


def test_choose_takes_the_layer_and_size_that_agree_best(data):
    x, groups, truth = data
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    counted = []
    best, cells = choose(
        {0: noise, 1: x}, groups, BEHAVIORS[truth], (12, 3, 6), advance=counted.append, model="m"
    )
    assert (best.layer, best.n_categories, best.model) == (1, 6, "m") and sum(counted) == 6
    assert {(c.layer, c.n_latents) for c in cells} == {(a, b) for a in (0, 1) for b in (3, 6, 12)}
    for cell in cells[-2:]:
        rows = {0: noise, 1: x}[cell.layer]
        alone = fit_sae(rows, groups, cell.layer, cell.n_latents)
        ami = adjusted_mutual_info_score(truth, alone.categories(rows).numpy())
        assert cell.ami == cell.score == pytest.approx(ami) and cell.fvu == alone.fvu
        assert cell.consistency is None and cell.completeness is None


def test_judges_choose_where_there_are_no_labels(data):
    x, groups, truth = data
    sentences = [f"{c} sentence {i}" for i, c in enumerate(truth)]

    def fit(examples, sentence):
        return float(np.mean(same_word([sentence], examples)))

    def belongs(examples, tested):
        words = [e.split()[0] for e in examples]
        commonest = max(sorted(set(words)), key=words.count)
        return [t.split()[0] == commonest for t in tested]

    judges = (belongs, fit)
    best, cells = choose({1: x}, groups, None, (3, 6), sentences=sentences, judges=judges)
    assert best.n_categories == 6
    for cell in cells:
        assert cell.ami is None and None not in (cell.consistency, cell.completeness)
        parts = [cell.consistency, cell.completeness, cell.orthogonality]
        assert cell.score == pytest.approx(np.mean(parts))
    assert cells[-1].consistency == cells[-1].completeness == 1


def test_ties_go_to_the_smaller_size():
    """Two tight clusters and one label: the agreement is 0 (no information) for every size."""
    x, groups, _ = planted(n=100, n_clusters=2)
    best, cells = choose({3: x, 1: x}, groups, np.array(["aim"] * 100), (5, 4), k=2)
    assert len({cell.score for cell in cells}) == 1 and (best.layer, best.n_categories) == (1, 4)


def test_choosing_without_a_score_or_a_candidate_is_refused(data):
    x, groups, truth = data
    with pytest.raises(UserError, match="needs a score"):
        choose({0: x}, groups, None, (4,), sentences=["a"] * len(x))
    with pytest.raises(UserError, match="at least one layer and one size"):
        choose({}, groups, BEHAVIORS[truth], (4,))
