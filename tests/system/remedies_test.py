"""What a message says to type works when it is typed.

Each case is a command line that is refused. What its message names, a flag with its
value, is put into the same command line, which then succeeds.
"""

import re
import shlex
import shutil

import processes
import pytest
from conftest import make_photos

from vit_jax import checkpoint, convert, evaluate, main, predict, train
from vit_jax.training.plan import checked, prepare

# A flag with its value, quoted for a shell where it must be.
_REMEDY = re.compile(
    r"--[\w.]+='[^']*'|'--[\w.]+=[^']*'|--[\w.]+=[^\s,;()]*[^\s,;.()?]"
)


def remedies(message: str) -> list[str]:
    """Returns what a message says to type, as a shell hands it on."""
    return [shlex.split(found)[0] for found in _REMEDY.findall(message)]


@pytest.fixture
def only_checked(monkeypatch):
    """Ends a run before its first step, which is when all of these are refused."""

    def stub(config, workdir):
        prepare(checked(config), workdir).check()

    monkeypatch.setattr(train, 'train_and_evaluate', stub)


@pytest.fixture(scope='module')
def run(folder):
    """Returns the directory of a finished run on the folder's photos."""
    workdir = folder / 'runs' / 'flowers'
    settings = ['--config.model.hidden_size=12']
    command = ['main', f'--config={folder}/tiny.py', f'--workdir={workdir}']
    assert main.main(command + settings) == 0
    return workdir


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Returns a folder with a recipe, photos, and weights."""
    root = tmp_path_factory.mktemp('remedies')
    photos = make_photos(root / 'photos', train=8, test=5)
    broken = make_photos(root / 'broken', train=8, val=2, test=2)
    for split in ('train', 'val', 'test'):
        (broken / split / 'cat' / '0.png').write_text('<html>404</html>')
    shutil.copytree(photos / 'train', root / 'wrapped' / 'photos')
    processes.write_recipe(root / 'tiny.py', photos)
    whole = {'pp.train': 'train', 'pp.val': 'auto', 'pp.test': 'auto'}
    processes.write_recipe(root / 'broken.py', broken, **whole, batch=16)
    return root


@pytest.mark.parametrize(
    ('recipe', 'arguments', 'said'),
    [
        ('tiny', ['batch=32'], 'fewer than one batch of 32'),
        ('tiny', ['batch=12'], 'cannot share equally'),
        ('broken', ['pp.train=train'], '3 files are no image'),
        ('tiny', ['pp.mean=(0.485,0.456,0.406)', 'pp.std=(0.229,0.224,0.225)'], '0 to'),
        ('tiny', ['pp.mean=(0.5,)', 'pp.std=(0.5,)'], 'pixels are from 0 to 255'),
    ],
)
def test_what_the_trainer_says_to_type(
    only_checked, folder, tmp_path, capsys, recipe, arguments, said
):
    command = ['main', f'--config={folder / recipe}.py', f'--workdir={tmp_path}/run']
    command += [f'--config.{argument}' for argument in arguments]
    assert main.main(command) == 2
    message = capsys.readouterr().err
    assert said in message
    typed = remedies(message)
    assert typed
    keys = [argument.partition('=')[0] for argument in typed]
    kept = [word for word in command if word.partition('=')[0] not in keys]
    assert main.main(kept + typed) == 0


@pytest.mark.parametrize(
    ('arguments', 'at'),
    [
        (['--config.base_lrr=0.1'], 'base_lr'),
        (['--config.optimizer=adam'], 'adamw'),
        (['--config.decay_type=cosin'], 'cosine'),
        (['--config.pp.train=trian'], 'train'),
        (['--config.dtype=float23'], 'float32'),
        (['--config.remat=ful'], 'full'),
        (['--workdri=x'], 'workdir'),
        (['--dryrun'], 'dry_run'),
    ],
)
def test_the_nearest_name_is_the_right_one(
    only_checked, folder, tmp_path, capsys, arguments, at
):
    """What stands after 'Did you mean' in the place of what was misspelt."""
    command = ['main', f'--config={folder}/tiny.py', f'--workdir={tmp_path}/run']
    assert main.main(command + arguments) == 2
    message = capsys.readouterr().err
    (meant, *_) = re.search(r'Did you mean ([\w.-]+)', message).groups()
    assert meant.removeprefix('config.') == at
    flag = arguments[0].partition('=')[0]
    name = flag.removeprefix('--').removeprefix('config.')
    right = {
        'base_lrr': ['--config.base_lr=0.1'],
        'workdri': [],
        'dryrun': ['--dry_run'],
    }.get(name, [f'{flag}={at}'])
    if '--dry_run' not in right:  # which forecast_test.py looks at
        assert main.main(command + right) == 0


def test_a_disk_that_is_too_small(folder, tmp_path, capsys, monkeypatch):
    """Five checkpoints do not fit, three do."""
    usage = shutil.disk_usage(tmp_path)
    command = ['main', f'--config={folder}/tiny.py', f'--workdir={tmp_path}/run']
    full = [*command, '--config.keep_checkpoints=30']
    with monkeypatch.context() as patch:
        patch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=300_000))
        assert main.main(full) == 2
        message = capsys.readouterr().err
        assert 'are free' in message
        assert not list((tmp_path / 'run' / 'checkpoints').glob('*'))
        assert remedies(message) == ['--config.keep_checkpoints=1']
        assert main.main(command + remedies(message)) == 0


def test_one_class_because_of_a_folder_too_many(only_checked, folder, tmp_path, capsys):
    command = ['main', f'--config={folder}/tiny.py', f'--workdir={tmp_path}/run']
    splits = [f'--config.pp.{role}=auto' for role in ('train', 'val', 'test')]
    wrapped = [*command, f'--config.dataset={folder}/wrapped', *splits]
    assert main.main(wrapped) == 2
    typed = remedies(capsys.readouterr().err)
    assert typed == [f'--config.dataset={folder}/wrapped/photos']
    assert main.main(wrapped + typed) == 0


def test_photos_that_evaluate_does_not_read(folder, run, tmp_path, capsys):
    command = [str(run), f'--dataset={folder}/broken']
    assert evaluate.main(command) == 2
    message = capsys.readouterr().err
    assert '--skip_corrupt' in message
    assert evaluate.main([*command, '--skip_corrupt']) == 1  # some were left out


def test_heads_that_nothing_tells(folder, run, tmp_path, capsys):
    """Weights without a card, of a width that no published model has."""
    assert convert.main([str(run), str(tmp_path / 'ours'), '--to', 'timm']) == 0
    bare = tmp_path / 'bare.safetensors'
    (tmp_path / 'ours' / 'model.safetensors').rename(bare)
    photo = folder / 'photos/test/cat/0.png'
    capsys.readouterr()
    assert predict.main([str(bare), str(photo)]) == 2
    message = capsys.readouterr().err
    assert '--num_heads' in message
    assert predict.main([str(bare), str(photo), '--num_heads', '2']) == 0
    assert '0.' in capsys.readouterr().out


def test_a_file_that_is_there(folder, run, tmp_path, capsys):
    arguments = [str(run), str(tmp_path / 'other.npz')]
    assert convert.main(arguments) == 0
    assert convert.main(arguments) == 2
    assert '--overwrite replaces it' in capsys.readouterr().err
    assert convert.main([*arguments, '--overwrite']) == 0
    assert checkpoint.load(tmp_path / 'other.npz')


def test_a_run_that_is_misspelt(folder, run, tmp_path, capsys):
    photo = str(folder / 'photos/test/cat/0.png')
    for wrong in (
        'runs/flower',
        'runs/flowers/modle.npz',
        'run/flowers',
        'runs/Flowers',
    ):
        assert predict.main([str(folder / wrong), photo]) == 2
        (meant,) = re.findall(r'Did you mean ([\w.]+)', capsys.readouterr().err)
        right = {'flowers': run, 'model.npz': run / 'model.npz', 'runs': run}[meant]
        assert predict.main([str(right), photo]) == 0
