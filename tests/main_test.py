"""The command line: recipes, keys and slips, all through `main.parse`."""

import pathlib
import re

import pytest

from vit_jax import config as config_lib
from vit_jax import main
from vit_jax.command_line import recipe

ROOT = pathlib.Path(__file__).parents[1]
RECIPES = {
    'linear_probe.py': [':b16,cifar10', ':r_ti16,/some/photos'],
    'finetune.py': [':b16,cifar10'],
    'quickstart.py': ['', ':finetune', ':probe'],
    'vit.py': [':b16,cifar10', ':r50_l32,imagenet2012', ':ViT-Ti_16,/some/photos'],
    'mixer.py': [':b16,cifar10', ':Mixer-L_16,/some/photos'],
    'augreg.py': [
        ':R_Ti_16',
        ':B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0',
    ],
}


def parse(*arguments):
    return recipe.parse(['main', '--workdir=runs/x', *arguments])[0]


def test_every_recipe_is_listed_here():
    found = {path.name for path in (ROOT / 'configs').glob('*.py')}
    # inference_time.py trains nothing: tests/inference_time_test.py.
    others = {'__init__.py', 'models.py', 'inference_time.py'}
    assert found - others == set(RECIPES)


@pytest.mark.parametrize(
    'reference', [name + arg for name, args in RECIPES.items() for arg in args]
)
def test_recipes_by_path_and_by_name(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    by_path = parse(f'--config=configs/{reference}')
    if by_path.dataset is None:  # augreg.py leaves it to the user
        by_path.dataset = 'cifar10'
    config_lib.check(by_path)
    monkeypatch.chdir(tmp_path)
    for by_name in (parse(f'--config={reference}'), parse('--config', reference)):
        by_name.dataset = by_path.dataset
        assert config_lib.flatten(by_name) == config_lib.flatten(by_path)


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('b16', 'expected weights and a dataset'),
        (',photos', 'expected weights and a dataset'),
        ('b61,photos', r'no such file or run\. Did you mean .*b16'),
        ('runs/missing,photos', 'no such file or run'),
    ],
)
def test_weights_that_are_not_there(argument, message, capsys):
    command = ['main', f'--config=finetune.py:{argument}', '--workdir=runs/x']
    assert main.main(command) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_recipe_in_the_current_folder_wins(tmp_path, monkeypatch):
    text = (ROOT / 'configs/quickstart.py').read_text()
    (tmp_path / 'vit.py').write_text(text.replace("'digits'", "'mine'"))
    monkeypatch.chdir(tmp_path)
    assert parse('--config=vit.py').dataset == 'mine'


VALUES = {
    bool: lambda old: not old,
    int: lambda old: old + 1,
    float: lambda old: old + 0.5,
    str: lambda old: old + 'x',
    tuple: lambda old: (4, 4),
    list: lambda old: (4, 4),
}
NEW_VALUES = {
    'accum_steps': 2,
    'batch': 64,
    'cache.shrink': 256,
    'pp.augment': ('flip',),
    'cache.where': '/c',
    'dataset': 'mnist',
    'num_threads': 3,
    'pp.crop': 48,
    'pp.mean': (120.0,),
    'pp.std': (60.0,),
    'pp.resize': 64,
    'pp.size': (32, 48),
    'pretrained': '/a/file.npz',
    'tfds_data_dir': '/a',
    'tfds_manual_dir': '/b',
    'few_shot.dataset': 'cifar100',
    'total_steps': 11,
    'warmup_steps': 3,
    'model.gelu': 'exact',
    'model.norm_epsilon': 1e-5,
    'model.representation_size': 7,
}


def all_keys():
    return sorted(config_lib.flatten(parse('--config=vit.py:b16,cifar10')))


@pytest.mark.parametrize('key', all_keys())
def test_every_key_is_set_from_the_command_line(key):
    before = config_lib.flatten(parse('--config=vit.py:b16,cifar10'))[key]
    value = NEW_VALUES.get(key)
    if value is None:
        value = VALUES[type(before)](before)
    config = parse('--config=vit.py:b16,cifar10', f'--config.{key}={value}')
    found = config_lib.flatten(config)[key]
    assert found == (list(value) if isinstance(value, tuple) else value)
    assert found != before


@pytest.mark.parametrize(
    'key', sorted({*config_lib.keys_with_none()} - {'model.resnet'})
)
def test_optional_keys_are_set_to_none(key):
    config = parse('--config=vit.py:b16,cifar10', f'--config.{key}=None')
    assert config_lib.flatten(config)[key] is None


def test_none_in_two_words_and_of_a_key_that_is_not_there():
    words = ['--config.pp.val', 'None', '--config.batch', '64']
    config = parse('--config=vit.py:b16,cifar10', *words, '--config.model.resnet=None')
    assert config.pp.val is None
    assert config.batch == 64


def test_none_is_a_value_of_remat():
    assert parse('--config=quickstart.py', '--config.remat=none').remat == 'none'


@pytest.mark.parametrize(
    ('argument', 'base_lr'),
    [
        ('b16,cifar10', 0.01),
        ('ViT-B_16,cifar10:3.0.2', 0.01),
        ('b16,cifar100', 0.03),
        ('b32,cifar10', 0.03),
    ],
)
def test_the_presets_rate_goes_with_the_model_not_its_spelling(argument, base_lr):
    config = parse(f'--config=vit.py:{argument}')
    assert config.base_lr == base_lr
    assert (config.total_steps, config.pp.train) == (10_000, 'train[:98%]')


def test_pretrained_follows_its_directory():
    config = parse('--config=vit.py:l32,cifar10', '--config.pretrained_dir=/data')
    assert config.pretrained == '/data/ViT-L_32.npz'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], '--config is missing'),
        (['--config=vti.py:b16,cifar10'], r'no recipe vti\.py.*Did you mean vit\.py'),
        (['--config=vit.py:b61,cifar10'], r'b61.*ViT-B_16'),
        (['--config=vit.py:b16'], 'expected a model and a dataset'),
        (['--config=quickstart.py:half'], 'scratch .* or probe'),
        (['--config=augreg.py:B16'], 'B_16'),
        (['--config=quickstart.py', '--config.bacth=3'], r'bacth.*Did you mean batch'),
        (['--config=quickstart.py', '--config.pp.trian=x'], r'pp\.trian.*pp\.train'),
        (['--config=quickstart.py', '--config.batch=many'], 'batch=many'),
        (['--config=quickstart.py', '--config.batch=2.5'], 'batch=2.5'),
        (['--config=quickstart.py', '--wrokdir=x'], r'--wrokdir.*Did you mean workdir'),
        (['--config=quickstart.py', 'batch=3'], r'What is batch=3\?'),
        (['--config=quickstart.py', '--config.seed=None'], 'seed cannot be None'),
        (['--config=quickstart.py', '--config.pp.vall=None'], r'pp\.vall.*pp\.val'),
        (['--config=vit.py'], r'vit\.py.*argument'),
    ],
)
def test_slips_are_answered_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        parse(*arguments)
    assert '\n' not in str(error.value)


def test_no_workdir():
    with pytest.raises(ValueError, match='--workdir is missing'):
        recipe.parse(['main', '--config=quickstart.py'])


@pytest.mark.parametrize('key', sorted(config_lib.GONE))
def test_keys_of_the_original_without_meaning(key, capsys):
    before = parse('--config=vit.py:b16,cifar10')
    config = parse('--config=vit.py:b16,cifar10', f'--config.{key}=5')
    assert config_lib.flatten(config) == config_lib.flatten(before)
    assert config_lib.GONE[key] in capsys.readouterr().err


def test_main_answers_slips_with_exit_code_2(capsys):
    assert main.main(['main', '--config=nope.py', '--workdir=x']) == 2
    assert capsys.readouterr().err.startswith('vit_jax: There is no recipe nope.py')


def test_help_lists_the_keys(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(['main', '--config=quickstart.py', '--help'])
    assert end.value.code == 0
    assert '--config.total_steps=700' in capsys.readouterr().out
