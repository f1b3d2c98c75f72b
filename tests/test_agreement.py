"""Agreement with a teacher is arithmetic written out, and scipy's tau; what cannot be compared is said."""

import math

import pytest
from scipy.stats import kendalltau

from r2anker_hf.rankers.agreement import agreement
from r2anker_hf.records import InputError
from r2anker_hf.run import Run


def run(name="run", **lists):
    return Run({query_id: list(documents.items()) for query_id, documents in lists.items()}, name)


def test_divergence_by_hand_over_the_documents_that_both_score():
    own, teacher = run(q={"a": 1.0, "b": 0.0, "c": 9.0}), run(q={"a": 0.0, "b": 0.0, "d": 5.0})
    # the teacher gives a and b a half each; the ranker e/(e+1) and 1/(e+1)
    shares = math.e / (math.e + 1), 1 / (math.e + 1)
    expected = sum(0.5 * math.log(0.5 / share) for share in shares)
    assert agreement(own, teacher).kl == pytest.approx(expected, abs=1e-6)
    assert agreement(own, teacher).tau == 0.0  # the teacher knows no order


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_the_temperature_is_the_teacher_s(temperature):
    own, teacher = run(q={"a": 4.0, "b": 0.0, "c": -2.0}), run(q={"a": 2.0, "b": 0.0, "c": -1.0})
    found = agreement(own, teacher, temperature)
    assert found.tau == 1.0 and (found.kl < 1e-6) == (temperature == 0.5)
    scaled = run(q={"a": 2.0 / temperature, "b": 0.0, "c": -1.0 / temperature})
    assert agreement(scaled, teacher, temperature).kl == pytest.approx(0.0, abs=1e-6)


def test_means_are_over_the_queries_with_two_common_documents():
    own = run(q={"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0}, r={"a": 1.0, "b": 0.0}, s={"a": 1.0, "b": 0.0})
    teacher = run(q={"a": 1.0, "b": 2.0, "c": 2.0, "d": 0.0}, r={"a": 0.0, "b": 1.0}, s={"a": 1.0})
    found = agreement(own, teacher)
    assert found.queries == 2
    assert found.tau == pytest.approx((kendalltau([3, 2, 1, 0], [1, 2, 2, 0]).statistic - 1) / 2)


def test_runs_without_common_documents_are_refused():
    with pytest.raises(InputError, match="runs 'own' and 'teacher' have no query with two documents in common"):
        agreement(run("own", q={"a": 1.0, "b": 0.0}), run("teacher", r={"a": 1.0, "b": 0.0}))
