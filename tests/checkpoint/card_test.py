"""The model card: what goes in comes out, and what is wrong is named."""

import dataclasses
import errno
import json

import pytest
from ml_collections import ConfigDict

from vit_jax import checkpoint, models
from vit_jax.checkpoint import ModelCard

MODEL = {'patches': {'size': (4, 4)}, 'hidden_size': 8, 'representation_size': None}


def card(**changes):
    fields = {
        'model': MODEL,
        'num_classes': 2,
        'image_size': (12, 16),
        'class_names': ['Käse', 'naïve "quotes"'],
        'resize': 20,
        'source': {'dataset': 'cheese', 'step': 7, 'accuracy': 0.5},
    }
    return ModelCard(**(fields | changes))


def test_round_trip(tmp_path):
    path = tmp_path / 'model.json'
    card().save(path)
    assert ModelCard.load(path) == card()
    content = json.loads(path.read_text(encoding='utf-8'))
    assert content['format_version'] == 1
    assert content['image_size'] == [12, 16]
    assert content['model']['patches'] == {'size': [4, 4]}
    assert content['mean'] == content['std'] == 127.5
    assert [p.name for p in tmp_path.iterdir()] == ['model.json']


def test_takes_what_a_run_has(tmp_path):
    config = models.get_config('R+ViT-Ti_16')
    made = card(model=config, class_names=('a', 'b'), image_size=[8, 8], mean=[1, 2, 3])
    assert type(made.model) is dict
    assert made.class_names == ['a', 'b']
    assert made.image_size == (8, 8)
    assert made.mean == (1, 2, 3)
    made.save(tmp_path / 'model.json')
    loaded = ModelCard.load(tmp_path / 'model.json')
    assert loaded == made
    assert ConfigDict(loaded.model).to_dict() == config.to_dict()
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.num_classes = 3


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'class_names': ['a']}, '1 class names for 2 classes'),
        ({'class_names': [1, 2]}, 'class_names'),
        ({'image_size': (12,)}, r'image_size is \(12,\), expected \(height, width\)'),
        ({'image_size': (12, 0)}, 'image_size'),
        ({'num_classes': -1}, 'num_classes is -1'),
        ({'num_classes': True}, 'num_classes is True'),
        ({'resize': 0}, 'resize is 0, expected pixels'),
        ({'std': 0}, 'std is 0, expected numbers'),
        ({'mean': float('nan')}, 'mean is nan'),
        ({'model': None}, 'model'),
        ({'colour': 'red'}, r"unknown keys \['colour'\]"),
    ],
)
def test_wrong_values_in_a_file(tmp_path, changes, message):
    path = tmp_path / 'model.json'
    card().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=rf'(?s)model\.json does not fit .*{message}'):
        ModelCard.load(path)


def test_wrong_files(tmp_path):
    path = tmp_path / 'model.json'
    with pytest.raises(ValueError, match=r'not a readable model card: .*No such file'):
        ModelCard.load(path)
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match='not a readable model card'):
        ModelCard.load(path)
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match='is not a model card'):
        ModelCard.load(path)
    card().save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in content.items() if k != 'model'}))
    with pytest.raises(ValueError, match=r"missing keys \['model'\]"):
        ModelCard.load(path)
    path.write_text(json.dumps(content | {'format_version': 2}))
    with pytest.raises(
        ValueError, match='format version 2; this vit_jax reads version 1'
    ):
        ModelCard.load(path)


def test_failed_save_keeps_the_old_card(tmp_path, monkeypatch):
    path = tmp_path / 'model.json'
    card().save(path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match=r'No space left on device while writing .*json'):
        card(num_classes=1, class_names=None).save(path)
    assert ModelCard.load(path) == card()
    assert [p.name for p in tmp_path.iterdir()] == ['model.json']


def test_find_card(tmp_path):
    assert checkpoint.find_card(tmp_path / 'model.npz') is None
    card().save(tmp_path / 'model.json')
    assert checkpoint.find_card(tmp_path / 'model.npz') == card()
    assert checkpoint.find_card(str(tmp_path / 'model_best.npz')) == card()
    assert checkpoint.find_card(tmp_path / 'ViT-B_16.npz') is None
    # A renamed pair, and JSON that has nothing to do with it.
    card().save(tmp_path / 'flowers.json')
    assert checkpoint.find_card(tmp_path / 'flowers.npz') == card()
    (tmp_path / 'flowers.json').write_text('{"roses": "red"}')
    assert checkpoint.find_card(tmp_path / 'flowers.npz') is None
    (tmp_path / 'model.json').write_text('{"roses": "red"}')
    with pytest.raises(ValueError, match='is not a model card'):
        checkpoint.find_card(tmp_path / 'model.npz')


@pytest.mark.parametrize('is_new', [True, False])
def test_weights_that_cannot_be_written_leave_the_card_as_it_was(tmp_path, is_new):
    path = tmp_path / 'model.json'
    if not is_new:
        card(num_classes=3, class_names=None).save(path)
    before = None if is_new else path.read_bytes()

    def fail():
        with card().saved_before(tmp_path / 'model.npz'):
            assert ModelCard.load(path) == card()
            raise OSError('the disk is full')

    with pytest.raises(OSError, match='full'):
        fail()
    assert (path.read_bytes() if path.exists() else None) == before
