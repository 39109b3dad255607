"""The progress line: what matters is there at 80 columns, and nothing is cut."""

import io
import sys

import pytest

from vit_jax.training.metrics import Progress

VALUES = {
    'loss': 0.12345,
    'val_accuracy': 0.98765,
    'images_per_second': 12345.6,
    'data_wait': 0.5,
    'learning_rate': 0.03,
    'skipped': 0,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize('columns', [80, 120])
def test_on_a_terminal(columns, monkeypatch):
    stderr = Terminal()
    monkeypatch.setenv('COLUMNS', str(columns))
    monkeypatch.setenv('LINES', '24')
    monkeypatch.setattr(sys, 'stderr', stderr)
    with Progress(0, 20_000) as progress:
        for step in (10_000, 20_000):
            progress.show(step, VALUES)
    shown = [line.rstrip('\n') for line in stderr.getvalue().split('\r')]
    assert 'compiling the training step' in stderr.getvalue()
    assert max(map(len, shown)) <= columns
    assert shown[-1].startswith('20000/20000 |')
    assert '| 0:00:00 left, loss 0.1235, val accuracy 0.9877' in shown[-1]
    assert ('12,346 images/s' in shown[-1]) == (columns == 120)
    assert 'skipped' not in shown[-1]


def test_elsewhere_everything_is_told(caplog):
    caplog.set_level('INFO')
    with Progress(0, 20_000) as progress:
        progress.show(10_000, VALUES)
        progress.show(20_000, VALUES | {'skipped': 3})
    first, second = caplog.messages[-2:]
    assert first.startswith('step 10000/20000, ')
    assert 'loss 0.1235, val accuracy 0.9877' in first
    assert 'skipped' not in first
    assert '12,346 images/s, 50% waiting for data, rate 3.00e-02' in first
    assert '3 draws skipped' in second
