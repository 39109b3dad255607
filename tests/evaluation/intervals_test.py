"""Wilson's interval, against SciPy's and by hand."""

import pytest
from scipy import stats

from vit_jax.evaluation import intervals


@pytest.mark.parametrize('count', [1, 5, 40, 1000, 10**6])
@pytest.mark.parametrize('share', [0.0, 0.2, 0.5, 1.0])
def test_as_scipy_has_it(count, share):
    right = round(share * count)
    expected = stats.binomtest(right, count).proportion_ci(method='wilson')
    low, high = intervals.wilson(right / count, count)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= low <= right / count <= high <= 1


def test_nothing_measured_tells_nothing():
    assert intervals.wilson(0.0, 0) == (0.0, 1.0)


def test_in_words():
    assert intervals.text(0.5, 4) == '0.5000 (95 %: 0.1500 to 0.8500)'
    assert intervals.calibration_text(0.04, 40).startswith('0.0400 of 40 images, too')
    assert intervals.calibration_text(0.04, 200) == '0.0400'
