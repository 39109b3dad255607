"""Learning curves from metrics.jsonl."""

import json
import math

import pytest

from vit_jax.visualize import curves

RECORDS = [
    {'step': 2, 'time': 1.0, 'loss': 0.5, 'note': 'text'},
    {'step': 4, 'time': 2.0, 'loss': math.nan, 'val_loss': 0.7, 'val_accuracy': 0.25},
]


def test_each_metric_has_its_steps():
    found = curves.curves(RECORDS)
    assert set(found) == {'loss', 'val_loss', 'val_accuracy'}
    steps, values = found['loss']
    assert steps.tolist() == [2, 4]
    assert values[0] == 0.5
    assert math.isnan(values[1])
    assert [x.tolist() for x in found['val_accuracy']] == [[4], [0.25]]


def test_splits_share_a_panel():
    assert curves.panels(['loss', 'learning_rate', 'val_loss', 'test_accuracy']) == {
        'loss': {'train': 'loss', 'val': 'val_loss'},
        'learning_rate': {'train': 'learning_rate'},
        'accuracy': {'test': 'test_accuracy'},
    }


def test_read(tmp_path):
    with pytest.raises(ValueError, match=r'metrics\.jsonl is missing'):
        curves.read(tmp_path)
    path = tmp_path / 'metrics.jsonl'
    path.touch()
    with pytest.raises(ValueError, match=r'metrics\.jsonl holds no metrics'):
        curves.read(tmp_path)
    path.write_text(''.join(json.dumps(r) + '\n' for r in RECORDS) + '{"step": 6, "lo')
    assert curves.read(tmp_path)['loss'][0].tolist() == [2, 4]
