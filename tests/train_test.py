"""Whole runs: what they leave, how they go on, and what stops them."""

import dataclasses
import errno
import io
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import GOLDEN, make_photos, tiny_config
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from PIL import Image
from tensorboardX.proto import event_pb2
from trees import assert_bit_equal, flat

from vit_jax import checkpoint, config, data, evaluate, train
from vit_jax.evaluation import accuracy, few_shot
from vit_jax.files import run_record
from vit_jax.inference.predictor import Predictor
from vit_jax.training import loop
from vit_jax.training.checkpoints import TrainCheckpoints


def records(run):
    """Returns metrics.jsonl without what depends on the clock."""
    times = ('time', 'images_per_second', 'data_wait')
    return [
        {key: value for key, value in record.items() if key not in times}
        for record in run_record.read(run / 'metrics.jsonl')
    ]


def event_values(run):
    """Returns (step, value) of everything in the TensorBoard events."""
    (path,) = run.glob('events.out.tfevents.*')
    data, found = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], 'little')
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        found += [(event.step, value) for value in event.summary.value]
    return found


def events(run):
    """Returns (step, tag, value) of the TensorBoard events, without those of time."""
    found = [(step, v.tag, v.simple_value) for step, v in event_values(run)]
    return [e for e in found if e[1] not in ('images_per_second', 'data_wait')]


@pytest.fixture(scope='module')
def whole_run(photos, tmp_path_factory):
    """A run of 6 steps that nothing interrupted."""
    run = tmp_path_factory.mktemp('whole') / 'run'
    params, summary = train.train_and_evaluate(
        tiny_config(photos, total_steps=6, warmup_steps=2), run
    )
    return run, params, summary


def test_what_a_run_leaves(whole_run, photos):
    run, params, summary = whole_run
    assert {path.name for path in run.iterdir()} >= {
        'config.json',
        'run.json',
        'metrics.jsonl',
        'train.log',
        'checkpoints',
        'model.npz',
        'model_best.npz',
        'model.json',
    }
    assert_bit_equal(params, checkpoint.load(run / 'model.npz'))

    card = checkpoint.find_card(run / 'model.npz')
    assert card.class_names == ['cat', 'dog', 'eel']
    assert tuple(card.image_size) == (16, 16)

    record = json.loads((run / 'run.json').read_text())
    rows = [(r['parameters'], r['role'], r['num_examples']) for r in record['results']]
    assert rows == [
        ('last', 'val', 9),
        ('last', 'test', 6),
        ('best', 'val', 9),
        ('best', 'test', 6),
    ]
    assert record['starts'][0]['versions']['jax'] == jax.__version__
    assert summary['step'] == 6
    assert summary['val_loss'] == record['results'][0]['loss']
    assert json.loads((run / 'config.json').read_text())['pp']['val'] == 'test[:60%]'

    found = records(run)
    assert [record['step'] for record in found] == [1, 2, 3, 4, 5, 6]
    assert [r['step'] for r in found if 'val_accuracy' in r] == [2, 4, 6]
    best = max(
        (r['val_accuracy'], -r['val_loss'], -r['step'])
        for r in found
        if 'val_loss' in r
    )
    assert summary['best_step'] == -best[2]
    assert summary['best_val_accuracy'] == best[0]
    assert events(run) == [
        (record['step'], tag, pytest.approx(value))
        for record in found
        for tag, value in record.items()
        if tag != 'step'
    ]


def test_the_model_a_run_leaves_gives_the_runs_numbers(whole_run):
    run, params, _ = whole_run
    model, loaded, card = checkpoint.load_model(run, best=False)
    images = np.linspace(-1, 1, 2 * 16 * 16 * 3, dtype=np.float32)
    images = images.reshape(2, 16, 16, 3)
    assert_bit_equal(params, loaded)
    logits = model.apply({'params': loaded}, images, train=False)
    assert logits.shape == (2, card.num_classes)


@pytest.mark.parametrize('die_at', [1, 2, 5])
def test_a_run_that_fails_and_goes_on_ends_with_the_same_bits(
    whole_run, photos, tmp_path, monkeypatch, die_at
):
    """The loop dies after step `die_at`; the next start repeats from a checkpoint."""
    config = tiny_config(photos, total_steps=6, warmup_steps=2)

    class DiedError(Exception):
        pass

    def dying(*args):
        for step, *rest in training_steps(*args):
            yield step, *rest
            if step == die_at:
                raise DiedError

    training_steps = loop.training_steps
    with monkeypatch.context() as patch:
        patch.setattr(loop, 'training_steps', dying)
        with pytest.raises(DiedError):
            train.train_and_evaluate(config, tmp_path / 'run')
    assert 'DiedError' in (tmp_path / 'run' / 'train.log').read_text()
    params, summary = train.train_and_evaluate(config, tmp_path / 'run')
    assert_bit_equal(params, whole_run[1])
    assert summary == whole_run[2]
    assert records(tmp_path / 'run') == records(whole_run[0])
    assert events(tmp_path / 'run') == events(whole_run[0])
    starts = json.loads((tmp_path / 'run' / 'run.json').read_text())['starts']
    assert len(starts) == (2 if die_at >= 2 else 1)  # nothing was saved before 2


def test_a_complete_run_is_returned_as_it_is(whole_run, photos, monkeypatch):
    run, params, summary = whole_run
    monkeypatch.setattr(loop, 'training_steps', None)
    config = tiny_config(photos, total_steps=6, warmup_steps=2)
    again, same = train.train_and_evaluate(config, run)
    assert_bit_equal(again, params)
    assert same == summary


def test_how_keys_may_change_and_blocks_may_be_stacked(
    whole_run, photos, tmp_path, monkeypatch
):
    """2 steps on stacked blocks over 2 × 4 devices, the rest unrolled on 8 × 1."""
    how = {
        'scan_layers': True,
        'sharding.fsdp': 2,
        'num_threads': 1,
        'keep_checkpoints': 1,
    }
    # Stacked blocks draw other dropout masks, and bfloat16 rounds differences up.
    settings = {
        'total_steps': 6,
        'warmup_steps': 2,
        'optim_dtype': 'float32',
        'model.transformer.dropout_rate': 0.0,
        'model.transformer.attention_dropout_rate': 0.0,
    }
    reference, _ = train.train_and_evaluate(
        tiny_config(photos, **settings), tmp_path / 'reference'
    )

    def two(*args):
        for step, *rest in training_steps(*args):
            yield step, *rest
            if step == 2:
                raise KeyboardInterrupt

    training_steps = loop.training_steps
    with monkeypatch.context() as patch:
        patch.setattr(loop, 'training_steps', two)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(
                tiny_config(photos, **settings, **how), tmp_path / 'run'
            )
    params, _ = train.train_and_evaluate(
        tiny_config(photos, **settings), tmp_path / 'run'
    )
    expected = flat(reference)
    for name, value in flat(params).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)


def test_another_configuration_is_refused_key_by_key(whole_run, photos):
    other = tiny_config(
        photos,
        total_steps=6,
        warmup_steps=2,
        batch=16,
        num_threads=1,
        **{'model.hidden_size': 12},
    )
    with pytest.raises(ValueError, match='another configuration') as error:
        train.train_and_evaluate(other, whole_run[0])
    lines = str(error.value).splitlines()[1:-1]
    assert [line.strip() for line in lines] == [
        'config.batch: 8 there, 16 now',
        'config.model.hidden_size: 10 there, 12 now',
    ]


def test_other_data_is_refused_the_same_in_another_place_is_not(
    whole_run, photos, tmp_path
):
    folder, run = tmp_path / 'photos', tmp_path / 'run'
    shutil.copytree(photos, folder)
    shutil.copytree(whole_run[0], run)
    settings = tiny_config(folder, total_steps=6, warmup_steps=2)
    assert train.train_and_evaluate(settings, run)[1] == whole_run[2]

    (folder / 'train' / 'cat' / '0.png').rename(folder / 'train' / 'cat' / 'new.png')
    with pytest.raises(ValueError, match='fingerprint of train examples'):
        train.train_and_evaluate(settings, run)


def test_values_chosen_from_the_data_are_kept_on_resume(photos, tmp_path):
    """300 photos as typed: nothing is given but the dataset and the model."""
    settings = tiny_config(photos, batch=8, total_steps=2)
    with settings.ignore_type():
        settings.batch = settings.accum_steps = settings.warmup_steps = None
    train.train_and_evaluate(settings, tmp_path / 'run')
    chosen = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert (chosen['batch'], chosen['accum_steps'], chosen['warmup_steps']) == (8, 1, 0)
    assert (
        'Chosen for 24 examples: batch 8'
        in (tmp_path / 'run' / 'train.log').read_text()
    )


def test_a_loss_that_is_not_finite_stops_the_run(photos, tmp_path):
    settings = tiny_config(
        photos,
        total_steps=40,
        warmup_steps=0,
        base_lr=1e30,
        grad_norm_clip=1e30,
        progress_every=10,
        checkpoint_every=1,
        eval_every=0,
    )
    with pytest.raises(FloatingPointError, match=r'in step (\d+); the run') as error:
        train.train_and_evaluate(settings, tmp_path / 'run')
    first = int(str(error.value).split('in step ')[1].split(';')[0])
    steps = TrainCheckpoints(tmp_path / 'run' / 'checkpoints')
    assert 1 < first < 10
    assert steps.latest_step() == first - 1  # the last good state


def test_a_val_loss_that_is_not_finite_chooses_nothing(photos, tmp_path):
    """The update of the last step overflows: its loss was finite, the result is not."""
    settings = tiny_config(
        photos,
        total_steps=2,
        warmup_steps=0,
        base_lr=1e38,
        optim_dtype='float32',
        progress_every=0,
        eval_every=1,
    )
    with pytest.raises(FloatingPointError, match='val is not finite after step 1'):
        train.train_and_evaluate(settings, tmp_path / 'run')
    assert TrainCheckpoints(tmp_path / 'run' / 'checkpoints').latest_step() is None


@pytest.mark.parametrize(
    'splits',
    [
        {'train': 'train', 'val': 'train[50%:]', 'test': 'test'},
        {'train': 'train[:80%]', 'val': 'train[80%:]', 'test': 'train[80%:]'},
        {'train': 'auto', 'val': 'auto', 'test': 'train[80%:]'},
        {'train': 'train', 'val': 'test[50%:]', 'test': 'test'},
    ],
)
def test_splits_that_share_examples_are_refused(photos, tmp_path, splits):
    settings = tiny_config(photos, **{f'pp.{k}': v for k, v in splits.items()})
    with pytest.raises(ValueError, match=r'share \d+ examples'):
        train.train_and_evaluate(settings, tmp_path / 'run')


def test_what_an_attempt_without_a_checkpoint_chose_is_forgotten(photos, tmp_path):
    first = tiny_config(photos, batch=16, pretrained='/nowhere/ViT.npz')
    with pytest.raises(ValueError, match='nowhere'):
        train.train_and_evaluate(first, tmp_path / 'run')
    second = tiny_config(photos, total_steps=1)
    with second.ignore_type():
        second.batch = second.accum_steps = None
    train.train_and_evaluate(second, tmp_path / 'run')
    chosen = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert chosen['batch'] == 8


def test_two_processes_do_not_share_a_run(photos, tmp_path):
    """A lock of another process keeps this one out, and ends with it."""
    (tmp_path / 'run').mkdir()
    hold = 'import fcntl, sys, time; f = open(sys.argv[1], "w"); '
    hold += 'fcntl.flock(f, fcntl.LOCK_EX); print("held", flush=True); time.sleep(60)'
    command = [sys.executable, '-c', hold, str(tmp_path / 'run' / '.lock')]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b'held\n'
        with pytest.raises(ValueError, match='Another process is running'):
            train.train_and_evaluate(tiny_config(photos), tmp_path / 'run')
        other.kill()
    train.train_and_evaluate(tiny_config(photos, total_steps=1), tmp_path / 'run')


def test_early_stopping_uses_val_alone(photos, tmp_path, monkeypatch):
    """Val says 0.1, 0.9, then worse: with patience 2 the run ends at step 8."""
    values = iter([0.1, 0.9, 0.5, 0.5, 0.5])
    evaluate = accuracy.evaluate
    asked = []

    def fake(step, params, batches, mesh):
        found = evaluate(step, params, batches, mesh)
        asked.append(found['num_examples'])
        value = next(values) if found['num_examples'] == 9 else 1.0
        return {**found, 'accuracy': value}

    monkeypatch.setattr(accuracy, 'evaluate', fake)
    settings = tiny_config(
        photos, total_steps=50, eval_every=2, checkpoint_every=0, early_stop=2
    )
    _, summary = train.train_and_evaluate(settings, tmp_path / 'run')
    assert (summary['step'], summary['best_step']) == (8, 4)
    assert summary['best_val_accuracy'] == 0.9
    assert asked == [9, 9, 9, 9, 6, 6]  # test was asked at the end alone
    # Both models are there, and they differ.
    last, best = (
        checkpoint.load(tmp_path / 'run' / name)
        for name in ('model.npz', 'model_best.npz')
    )
    assert any((flat(last)[name] != flat(best)[name]).any() for name in flat(last))


def test_a_run_without_val_and_test(photos, tmp_path):
    settings = tiny_config(photos, eval_every=2)
    with settings.ignore_type():
        settings.pp.val = settings.pp.test = None
    _, summary = train.train_and_evaluate(settings, tmp_path / 'run')
    assert summary == {'step': 4}
    assert not (tmp_path / 'run' / 'model_best.npz').exists()


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(
    photos, tmp_path, monkeypatch
):
    settings = tiny_config(photos, checkpoint_every=1, total_steps=6, eval_every=0)
    save = TrainCheckpoints.save

    def full(self, step, *args, **kwargs):
        save(self, step, *args, **kwargs)
        self.wait()
        if step == 2:
            raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(TrainCheckpoints, 'save', full)
        with pytest.raises(OSError, match='No space left'):
            train.train_and_evaluate(settings, tmp_path / 'run')
    assert TrainCheckpoints(tmp_path / 'run' / 'checkpoints').latest_step() == 2
    train.train_and_evaluate(settings, tmp_path / 'run')


@pytest.mark.parametrize('skip', [False, True])
def test_an_image_that_does_not_decode(tmp_path, skip):
    folder = make_photos(tmp_path / 'photos', train=8, test=5)
    bad = folder / 'train' / 'cat' / '3.png'
    bad.write_bytes(bad.read_bytes()[:60])
    settings = tiny_config(folder, total_steps=3, skip_corrupt=skip)
    if not skip:
        with pytest.raises(ValueError, match=r'cat.3\.png.*skip_corrupt'):
            train.train_and_evaluate(settings, tmp_path / 'run')
        return
    train.train_and_evaluate(settings, tmp_path / 'run')
    assert records(tmp_path / 'run')[-1]['skipped'] == 1  # 3 batches of 8: one epoch


def test_a_workdir_that_cannot_be_written_to(photos, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match='cannot be written to'):
        train.train_and_evaluate(tiny_config(photos), tmp_path / 'file' / 'run')


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'batch': 32}, r'24 training examples'),
        ({'pp.train': 'trian'}, r'trian.*train'),
        ({'pp.test': 'test[60%:60%]'}, 'no examples'),
        ({'pretrained': '/nowhere/ViT.npz'}, 'nowhere'),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_step(
    photos, tmp_path, settings, message
):
    with pytest.raises(ValueError, match=message):
        train.train_and_evaluate(tiny_config(photos, **settings), tmp_path / 'run')
    assert not (tmp_path / 'run' / 'model.npz').exists()


def test_fine_tuning_what_a_run_left(whole_run, photos, tmp_path):
    """At another resolution, with a new head, and with the head kept."""
    wider = tiny_config(
        photos,
        pretrained=str(whole_run[0] / 'model.npz'),
        total_steps=1,
        base_lr=0.0,
        **{'pp.size': (32, 48)},
    )
    params, _ = train.train_and_evaluate(wider, tmp_path / 'wider')
    assert params['Transformer']['posembed_input']['pos_embedding'].shape[1] == 7
    np.testing.assert_array_equal(params['head']['kernel'], 0)

    kept = tiny_config(
        photos,
        pretrained=str(whole_run[0] / 'model.npz'),
        keep_head=True,
        total_steps=1,
        base_lr=0.0,
    )
    params, summary = train.train_and_evaluate(kept, tmp_path / 'kept')
    assert_bit_equal(params, whole_run[1])
    assert summary['val_loss'] == pytest.approx(whole_run[2]['val_loss'], rel=1e-6)


def test_every_key_of_the_configuration_is_read(
    whole_run, photos, tmp_path, monkeypatch
):
    """A setting that nobody reads is a promise that nobody keeps."""
    settings = tiny_config(photos, pretrained=str(whole_run[0] / 'model.npz'))
    read = set()
    get = ConfigDict.__getitem__

    def noting(self, key):
        read.add(key)
        return get(self, key)

    monkeypatch.setattr(ConfigDict, '__getitem__', noting)
    monkeypatch.setattr(config, 'flatten', lambda config: {})
    monkeypatch.setattr(ConfigDict, 'to_dict', lambda *args, **kwargs: {})
    monkeypatch.setattr(ConfigDict, 'copy_and_resolve_references', lambda self: self)
    monkeypatch.setattr(config, 'check', lambda *args, **kwargs: None)
    train.train_and_evaluate(settings, tmp_path / 'run')
    keys = set(config.default().keys()) | set(config.default().pp.keys())
    # Recipes name the file to load by one; `check` alone asks for the other.
    assert keys - read == {'pretrained_dir', 'trainer'}


def make_arrays(root, channels):
    """Writes a folder of .npy images of three classes."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 8), ('test', 5)):
        for label, name in enumerate('abc'):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 99, (20, 24, channels), np.uint8)
                pixels[..., label] += 120
                np.save(folder / f'{i}.npy', pixels)
    return root


@pytest.mark.parametrize('channels', [1, 5])
def test_grey_and_other_channels_from_weights_for_three(
    whole_run, photos, tmp_path, channels, caplog
):
    data = photos if channels == 1 else make_arrays(tmp_path / 'data', channels)
    settings = {'pp.channels': channels, 'pretrained': str(whole_run[0] / 'model.npz')}
    with caplog.at_level('INFO'):
        train.train_and_evaluate(tiny_config(data, **settings), tmp_path / 'run')
    assert f'sees 3 channels, the model {channels}: its first kernel' in caplog.text
    _, params, _ = checkpoint.load_model(tmp_path / 'run')
    assert params['embedding']['kernel'].shape == (16, 16, channels, 10)
    # What the run has judged, the command judges the same.
    result = evaluate.main([str(tmp_path / 'run'), '--json'])
    assert result == 0


def test_a_run_follows_the_numerics_of_its_weights(whole_run, photos, tmp_path, caplog):
    folder = tmp_path / 'weights'
    folder.mkdir()
    shutil.copy(whole_run[0] / 'model.npz', folder)
    card = checkpoint.ModelCard.load(whole_run[0] / 'model.json')
    model = {**card.model, 'gelu': 'exact', 'norm_epsilon': 1e-12}
    card = dataclasses.replace(card, model=model, mean=(120.0, 110.0, 100.0), std=60.0)
    card.save(folder / 'model.json')

    config = tiny_config(photos, pretrained=str(folder / 'model.npz'))
    config.model.gelu = placeholder(str)
    config.model.norm_epsilon = placeholder(float)
    with caplog.at_level('INFO'):
        train.train_and_evaluate(config, tmp_path / 'run')
    assert 'As in the pretrained weights: model.gelu exact' in caplog.text
    model, _, card = checkpoint.load_model(tmp_path / 'run')
    assert (model.gelu, model.norm_epsilon) == ('exact', 1e-12)
    assert (card.mean, card.std) == ((120.0, 110.0, 100.0), 60.0)
    # A run that goes on has found them already.
    shutil.rmtree(folder)
    train.train_and_evaluate(config, tmp_path / 'run')

    # The command line wins, and weights without a card are the published ones.
    config.model.gelu = 'tanh'
    config.pretrained = str(whole_run[0] / 'model.npz')
    train.train_and_evaluate(config, tmp_path / 'other')
    model, _, card = checkpoint.load_model(tmp_path / 'other')
    assert (model.gelu, model.norm_epsilon) == ('tanh', 1e-6)
    assert (card.mean, card.std) == (127.5, 127.5)


def test_fine_tuning_folders_of_weights(photos, tmp_path):
    """Repositories of the hub and the original's runs are folders, not files."""
    from flax import serialization

    for name in ('hf_vit', 'checkpoint'):
        folder = tmp_path / name
        if name == 'hf_vit':
            shutil.copytree(GOLDEN / name, folder)
        else:
            folder.mkdir()
            params = checkpoint.load(GOLDEN / 'hf_vit')
            data = serialization.msgpack_serialize({'0': params, '1': {}, '2': 7})
            (folder / 'checkpoint_7').write_bytes(data)
        config = tiny_config(photos, pretrained=str(folder), total_steps=2)
        _, _, card = checkpoint.load_model(folder)
        config.model = ConfigDict(card.model)
        config.model.head_init = 'zeros'
        config.pp.crop = 64
        params, _ = train.train_and_evaluate(config, tmp_path / f'{name}-run')
        assert params['head']['bias'].shape == (3,)
        # Other weights in the same place are another run.
        (file,) = [*folder.glob('*.safetensors'), *folder.glob('checkpoint_7')]
        file.write_bytes(file.read_bytes()[:-4] + b'abcd')
        with pytest.raises(ValueError, match='pretrained file'):
            train.train_and_evaluate(config, tmp_path / f'{name}-run')


def test_few_shot_on_the_way(photos, tmp_path):
    config = tiny_config(photos, **{'few_shot.every': 2, 'few_shot.shots': (1, 4)})
    train.train_and_evaluate(config, tmp_path / 'run')
    records = run_record.read(tmp_path / 'run' / 'metrics.jsonl')
    told = {r['step']: r['few_shot_4_accuracy'] for r in records if r['step'] % 2 == 0}
    assert set(told) == {2, 4}
    assert 'few_shot_1_accuracy' not in records[0]
    # The last one is what the command says of the model, on val.
    rows = few_shot.few_shot_accuracies(
        Predictor.load(tmp_path / 'run'),
        data.open_dataset(str(photos)).source('train'),
        data.open_dataset(str(photos)).source('test[:60%]'),
        shots=[4],
    )
    assert rows[0]['mean'] == told[4]


@pytest.mark.parametrize('settings', [{'scan_layers': True}, {'sharding.fsdp': 4}])
def test_few_shot_of_parameters_as_they_lie(photos, tmp_path, settings):
    few = {'few_shot.every': 4, 'few_shot.dataset': str(photos)}
    train.train_and_evaluate(tiny_config(photos, **few), tmp_path / 'a')
    train.train_and_evaluate(tiny_config(photos, **few, **settings), tmp_path / 'b')
    a, b = (run_record.read(tmp_path / name / 'metrics.jsonl')[-1] for name in 'ab')
    assert {name for name in a if 'few_shot' in name} == {
        f'few_shot_{n}_accuracy' for n in (1, 5, 10, 25)
    }
    if 'sharding.fsdp' in settings:  # stacked blocks draw other dropout masks
        assert a['few_shot_5_accuracy'] == b['few_shot_5_accuracy']


def test_few_shot_needs_what_is_held_out(photos, tmp_path):
    config = tiny_config(photos, **{'few_shot.every': 2})
    with config.ignore_type():
        config.pp.val = None
    with pytest.raises(ValueError, match=r'--config\.few_shot\.dataset'):
        train.train_and_evaluate(config, tmp_path / 'run')


def test_what_the_model_sees_is_shown(photos, tmp_path):
    config = tiny_config(photos, show_images=5)
    path = tmp_path / 'run'
    train.train_and_evaluate(config, path)
    files = {file.name: file.read_bytes() for file in (path / 'images').iterdir()}
    assert set(files) == {'train.png', 'val.png', 'test.png'}
    for png in files.values():
        assert Image.open(io.BytesIO(png)).size[0] > 300
    shown = {v.tag: v.image for _, v in event_values(path) if v.HasField('image')}
    assert {name: image.encoded_image_string for name, image in shown.items()} == {
        f'images/{name.removesuffix(".png")}': png for name, png in files.items()
    }
    width = Image.open(io.BytesIO(files['train.png'])).size[0]
    assert shown['images/train'].width == width
