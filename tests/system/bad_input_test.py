"""What users get wrong is answered by `python -m vit_jax.main` before anything is lost.

One clear message on stderr, exit code 2, and no traceback.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import processes
import pytest
from conftest import make_photos
from PIL import Image

from vit_jax import checkpoint, main
from vit_jax.files import run_record
from vit_jax.training.checkpoints import TrainCheckpoints


@pytest.fixture(scope='module')
def recipe(tmp_path_factory, photos):
    return processes.write_recipe(tmp_path_factory.mktemp('recipe') / 'tiny.py', photos)


@pytest.fixture(scope='module')
def finished(recipe):
    """Returns the directory of a run that is complete."""
    run = recipe.with_name('run')
    assert main.main(['main', f'--config={recipe}', f'--workdir={run}']) == 0
    return run


@pytest.fixture
def answer(recipe, tmp_path, capsys):
    """Returns a function from a command line to the message that refuses it."""

    def ask(*arguments, workdir=tmp_path / 'run', recipe=recipe) -> str:
        command = ['main', f'--config={recipe}', f'--workdir={workdir}']
        capsys.readouterr()
        code = main.main([*command, *map(str, arguments)])
        _, error = capsys.readouterr()
        assert code == 2, error
        assert 'Traceback' not in error
        message = error[error.index('vit_jax: ') :]
        assert not (tmp_path / 'run' / 'model.npz').exists()
        return message

    return ask


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns all files in a folder but the log, with what they hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file() and path.name != 'train.log'
    }


@pytest.mark.parametrize(
    ('arguments', 'parts'),
    [
        (['dataset=cifra10'], ['cifra10', 'cifar10']),
        (['dataset=/nowhere/photos'], ['/nowhere/photos']),
        (['pp.train=trian'], ["'trian'", 'train (24)', 'Did you mean train']),
        (['pp.val=test[:60'], ['test[:60']),
        (['pp.test=test[20:30]'], ['test[20:30]', '15']),
        (['decay_type=cosin'], ["'cosin'", 'cosine, linear', 'Did you mean cosine']),
        (['optimizer=adam'], ["'adam'", 'sgd, adamw', 'Did you mean adamw']),
        (['bacth=3'], ['bacth', 'Did you mean', 'batch']),
        (['batch=12'], ['12', '8 devices', 'multiple of 8']),
        (['batch=8', 'accum_steps=3'], ['8', '3']),
        (['batch=16', 'accum_steps=4'], ['4 images', '8 devices', 'multiple of 32']),
        (['batch=32'], ['24 training examples', '32', '--config.batch']),
        (['pp.crop=3'], ['3', 'patch']),
        (['pp.size=(16, 1)'], ['16', 'patch']),
        (['sharding.fsdp=3'], ['fsdp is 3', '8 devices', 'one of 1, 2, 4, 8.']),
        (['sharding.fsdp=16'], ['fsdp is 16', '8 devices', 'one of 1, 2, 4, 8.']),
        (['sharding.fsdp=0'], ['config.sharding.fsdp is 0', 'at least 1']),
        (['attention=flash'], ["'flash'", 'auto, xla, cudnn']),
        (['attention=cudnn'], ["'cudnn'", 'dtype is float32', "'auto'"]),
        (['attention=cudnn', 'dtype=bfloat16'], ['a cpu', 'NVIDIA GPU', "'auto'"]),
        (['model.classifier=tokne'], ['tokne', 'token']),
        (['pretrained=/nowhere/ViT-B_16.npz'], ['There is no /nowhere/ViT-B_16.npz']),
    ],
)
def test_settings_that_cannot_be(answer, arguments, parts, tmp_path):
    message = answer(*(f'--config.{argument}' for argument in arguments))
    for part in parts:
        assert part in message
    assert not list((tmp_path / 'run').glob('checkpoints/*'))


@pytest.mark.parametrize(
    ('reference', 'parts'),
    [
        ('vit.py:b61,cifar10', ['b61', 'ViT-B_16']),
        ('vit.py:ViT-B_61,cifar10', ['ViT-B_61', 'ViT-B_16']),
        ('vti.py:b16,cifar10', ['vti.py', 'Did you mean vit.py']),
        ('augreg.py:B_61', ['B_61', 'B_16']),
    ],
)
def test_unknown_recipes_and_models(answer, reference, parts):
    message = answer(recipe=reference)
    assert message.count('\n') == 1
    for part in parts:
        assert part in message


def weights(finished, path: pathlib.Path, change) -> pathlib.Path:
    """Writes the arrays of a finished run, changed, to another file."""
    with np.load(finished / 'model.npz') as arrays:
        arrays = dict(arrays)
    change(arrays)
    np.savez(path, **arrays)
    return path


def without_a_kernel(arrays):
    del arrays['Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel']


def another_layer(arrays):
    for name in list(arrays):
        if 'encoderblock_0' in name:
            arrays[name.replace('encoderblock_0', 'encoderblock_1')] = arrays[name]


def wider(arrays):
    arrays['embedding/kernel'] = np.zeros((2, 2, 3, 12), np.float32)


def pickled(arrays):
    arrays['head/kernel'] = np.array([{'a': 1}, None], dtype=object)


@pytest.mark.parametrize(
    ('change', 'parts'),
    [
        (without_a_kernel, ['encoderblock_0/MlpBlock_0/Dense_0/kernel', 'issing']),
        (another_layer, ['encoderblock_1', 'depth 2 in the file, 1 in the model']),
        (wider, ['embedding/kernel', '12', '10']),
        (pickled, ['head/kernel', 'pickle']),
    ],
)
def test_weights_that_do_not_fit(answer, finished, tmp_path, change, parts):
    file = weights(finished, tmp_path / 'weights.npz', change)
    message = answer(f'--config.pretrained={file}')
    for part in [str(file), *parts]:
        assert part in message


@pytest.mark.parametrize('what', ['half', 'tail', 'empty', 'text', 'flipped', 'folder'])
def test_weights_that_cannot_be_read(answer, finished, tmp_path, what):
    content = bytearray((finished / 'model.npz').read_bytes())
    file = tmp_path / 'weights.npz'
    if what == 'folder':
        file.mkdir()
    else:
        middle = len(content) // 2
        if what == 'flipped':
            content[middle] ^= 255
        file.write_bytes(
            {
                'half': content[:middle],
                'tail': content[:-30],
                'empty': b'',
                'text': b'<html>Not found</html>',
                'flipped': content,
            }[what]
        )
    assert str(file) in answer(f'--config.pretrained={file}')


def folder_of(tmp_path, **splits):
    return make_photos(tmp_path / 'photos', **splits)


def test_an_empty_class_folder(answer, tmp_path):
    photos = folder_of(tmp_path, train=8, test=5)
    (photos / 'train' / 'fox').mkdir()
    message = answer(f'--config.dataset={photos}')
    assert 'fox' in message
    assert 'empty' in message or 'no image' in message


def test_a_class_in_test_but_not_in_train(answer, tmp_path):
    photos = folder_of(tmp_path, train=8, test=5)
    (photos / 'test' / 'eel').rename(photos / 'test' / 'eels')
    message = answer(f'--config.dataset={photos}')
    for part in ("'eels' in test", 'not in train', 'Did you mean eel'):
        assert part in message


def test_a_folder_without_labels(answer, tmp_path):
    photos = tmp_path / 'photos'
    photos.mkdir()
    Image.new('RGB', (9, 9)).save(photos / 'a.png')
    message = answer(f'--config.dataset={photos}')
    assert str(photos) in message
    assert 'class' in message


def test_a_dataset_without_labels(answer, tmp_path):
    """A prepared TFDS dataset of which the label was taken away."""
    golden = pathlib.Path(__file__).parents[1] / 'golden' / 'tfds_array_record'
    shutil.copytree(golden, tmp_path / 'tfds')
    (features,) = (tmp_path / 'tfds').rglob('features.json')
    content = json.loads(features.read_text())
    named = content['featuresDict']['features']
    del named['label']
    features.write_text(json.dumps(content))
    message = answer(
        '--config.dataset=tiny_shapes', f'--config.tfds_data_dir={tmp_path / "tfds"}'
    )
    assert 'tiny_shapes' in message
    assert 'label' in message


@pytest.mark.parametrize(('split', 'num_workers'), [('train', 1), ('test', 0)])
def test_an_image_that_does_not_decode(
    answer, recipe, tmp_path, capsys, split, num_workers
):
    photos = folder_of(tmp_path, train=8, test=5)
    bad = photos / split / 'dog' / '2.png'
    bad.write_bytes(bad.read_bytes()[:70])
    arguments = [f'--config.dataset={photos}', f'--config.num_workers={num_workers}']
    message = answer(*arguments)
    assert str(bad) in message
    assert '--config.skip_corrupt' in message
    command = ['main', f'--config={recipe}', f'--workdir={tmp_path / "run"}']
    assert main.main([*command, *arguments, '--config.skip_corrupt=True']) == 0
    last = run_record.read(tmp_path / 'run' / 'metrics.jsonl')[-1]
    assert last['skipped'] == (1 if split == 'train' else 0)


def test_a_workdir_with_a_run_of_another_configuration(answer, finished):
    before = snapshot(finished)
    message = answer('--config.base_lr=0.5', '--config.total_steps=9', workdir=finished)
    for part in ('base_lr: 0.03 there, 0.5 now', 'total_steps: 4 there, 9 now'):
        assert part in message
    assert snapshot(finished) == before


def test_a_workdir_with_a_run_on_other_data(answer, recipe, finished, tmp_path, photos):
    """The same folder, in which a photo has been replaced by another one."""
    changed, run = tmp_path / 'changed', tmp_path / 'other'
    shutil.copytree(photos, changed)
    arguments = [f'--config.dataset={changed}']
    command = ['main', f'--config={recipe}', f'--workdir={run}', *arguments]
    assert main.main(command) == 0
    (changed / 'test' / 'cat' / '4.png').rename(changed / 'test' / 'cat' / '9.png')
    before = snapshot(run)
    message = answer(*arguments, workdir=run)
    assert 'fingerprint of val examples' in message or 'of test examples' in message
    assert snapshot(run) == before


@pytest.mark.parametrize('where', ['file', 'file/run', '/proc/run', ''])
def test_a_workdir_that_cannot_be(answer, tmp_path, where):
    """As root nothing is forbidden, but a file is in the way, and /proc takes none."""
    (tmp_path / 'file').write_text('')
    workdir = tmp_path / where if where else ''
    message = answer(workdir=workdir)
    assert '--workdir' in message
    assert str(workdir) in message


def test_a_run_that_was_damaged(answer, recipe, finished, tmp_path):
    """A config.json that is no JSON is named."""
    run = tmp_path / 'damaged'
    shutil.copytree(finished, run)
    for name in ('run.json', 'config.json'):
        (run / name).write_text('{"half": ')
        assert str(run / name) in answer(workdir=run)
        shutil.copy(finished / name, run)


def test_the_run_that_was_finished_is_still_whole(finished, recipe):
    """After all that was asked of it above."""
    assert main.main(['main', f'--config={recipe}', f'--workdir={finished}']) == 0
    assert checkpoint.load(finished / 'model.npz')


# From step 3 on, files cannot grow beyond this many bytes: what the logs need, but not
# a checkpoint. Like a full disk, it is the kernel that refuses.
FULL = """
import resource
from vit_jax.training import metrics
write = metrics.MetricsLog.write

def limited(self, step, values):
    write(self, step, values)
    if step == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))

metrics.MetricsLog.write = limited
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='limits are those of Linux')
def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on(tmp_path, photos):
    recipe, run = tmp_path / 'recipe.py', tmp_path / 'run'
    settings = {'checkpoint_every': 1, 'eval_every': 0, 'total_steps': 30}
    settings['model.transformer.mlp_dim'] = 20_000
    processes.write_recipe(recipe, photos, **settings)
    with processes.start(recipe, run, code=FULL) as process:
        assert process.wait(timeout=120) == 1, processes.printed(run)
    output = processes.printed(run)
    (message,) = (x for x in output.splitlines() if x.startswith('vit_jax: '))
    for part in ('checkpoint', str(run), 'too large', 'start the run again'):
        assert part in message
    with TrainCheckpoints(run / 'checkpoints') as checkpoints:
        latest = checkpoints.latest_step()
    assert latest in (1, 2, 3)  # what was being written when the disk became full
    assert processes.finish(recipe, run) == 0, processes.printed(run)
    assert f'from step {latest} of this run' in processes.printed(run)
    assert [r['step'] for r in processes.records(run)] == [*range(1, 31)]
    assert (run / 'model.npz').exists()
