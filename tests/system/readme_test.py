"""What README and docs tell people to type: run where that is quick, else parsed."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import declared
import pytest
import registry_test
from conftest import make_photos

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.command_line import recipe

ROOT = declared.ROOT
README = (ROOT / 'README.md').read_text()
PAGES = [
    *(
        ROOT / name
        for name in ('README.md', 'README.zh.md', 'CONTRIBUTING.md', 'CHANGELOG.md')
    ),
    *sorted((ROOT / 'docs').glob('*.md')),
]
QUICK = ['--config.total_steps=2', '--config.warmup_steps=1']


def blocks(language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```', README, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Returns the words of every command, without what only installs."""
    lines = [line for block in blocks('sh') for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    found = []
    for line in words:
        while '&&' in line:
            at = line.index('&&')
            found.append(line[:at])
            line = line[at + 1 :]
        found.append(line)
    return found


def calls(module: str) -> list[list[str]]:
    start = ['python', '-m', module]
    return [words[3:] for words in commands() if words[:3] == start]


def python(arguments, cwd, environment) -> str:
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def structure(text: str) -> dict[str, list]:
    """Returns what two translations of a page have in common."""
    prose = re.sub(r'^```.*?^```', '', text, flags=re.DOTALL | re.MULTILINE)
    links = [
        link for link in re.findall(r'\]\(([^)]+)\)', prose) if 'README' not in link
    ]
    rows = re.findall(r'^\|.*\|$', prose, re.MULTILINE)
    return {
        'headings': [len(m) for m in re.findall(r'^(#+) ', prose, re.MULTILINE)],
        'code': re.findall(r'^```.*?^```', text, re.DOTALL | re.MULTILINE),
        'links': sorted(links),
        'pictures': re.findall(r'!\[[^]]+\]\(([^)]+)\)', prose),
        'tables': [(row.count('|'), re.findall(r'`[^`]+`', row)) for row in rows],
        'code in prose': sorted(re.findall(r'`([^`\n]+)`', prose)),
        'numbers': sorted(re.findall(r'\d[\d,.]*\d', re.sub(r'`[^`]*`', '', prose))),
        'strong': [len(re.findall(r'\*\*[^*]+\*\*', prose))],
        'items': [len(re.findall(r'^- ', prose, re.MULTILINE))],
    }


def test_the_chinese_readme_has_the_same_structure():
    english, chinese = map(structure, (README, (ROOT / 'README.zh.md').read_text()))
    for what, found in english.items():
        assert chinese[what] == found, what
    assert len(english['pictures']) == 2


def test_the_two_commands_come_first():
    first, second = blocks('sh')[:2]
    assert len(first.splitlines()) == len(second.splitlines()) == 1
    assert calls('vit_jax.main')[0][0] == '--config=configs/quickstart.py'
    assert commands()[:2] == [
        ['python3', '-m', 'venv', '.venv'],
        ['.', '.venv/bin/activate'],
    ]
    assert second.endswith("pip install -e '.[test]' && python -m pytest -n auto\n")


def test_ci_runs_the_test_command_of_the_readme():
    (script,) = re.findall(r"sed -n '(.*)' README\.md", (ROOT / '.ci/run').read_text())
    done = subprocess.run(
        ['sed', '-n', script, ROOT / 'README.md'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == 'python -m pytest -n auto\n'


def test_quickstart_finetune_evaluate_and_load(tmp_path):
    """The story of the README, with few steps, in an empty folder."""
    environment = {
        **os.environ,
        'TFDS_DATA_DIR': str(tmp_path / 'tfds'),
        'XLA_FLAGS': '',  # one device
    }
    shutil.copytree(ROOT / 'docs' / 'digits', tmp_path / 'docs' / 'digits')
    photos = make_photos(tmp_path / 'photos', train=8, test=5)
    quickstart = [
        [argument.replace('/path/to/photos', str(photos)) for argument in arguments]
        for arguments in calls('vit_jax.main')
        if 'quickstart' in arguments[0]
    ]
    assert len(quickstart) == 4
    for arguments in quickstart:
        python(['-m', 'vit_jax.main', *arguments, *QUICK], tmp_path, environment)
    told = {}
    for name in AFTER_TRAINING:
        arguments = calls(f'vit_jax.{name}')[0]
        command = ['-m', f'vit_jax.{name}', *arguments]
        told[name] = python(command, tmp_path, environment)
    assert '360 examples of digits test: accuracy 0.' in told['evaluate']
    assert 'against runs/quickstart, 360 images' in told['compare']
    assert told['predict'].count('docs/digits/') == 3
    assert told['few_shot'].split()[-1] == '250'  # 25 of each digit
    for file in (
        'runs/quickstart/report.html',
        'quickstart-hf/config.json',
        'figures/filters.png',
        'judged/confusion.png',
        'features.npz',
        'quickstart-exported/model.stablehlo',
    ):
        assert (tmp_path / file).exists()
    (arguments,) = (w[2:] for w in commands() if w[1:2] == ['scripts/run_exported.py'])
    script = str(ROOT / 'scripts' / 'run_exported.py')
    assert python([script, *arguments], tmp_path, environment).count('\t') >= 3
    code = '\n'.join(blocks('python'))
    assert "vit_jax.get_model('ViT-B_16'" in code
    first, *lines = python(['-c', code], tmp_path, environment).splitlines()
    assert {name for name, _ in eval(first)} < set('0123456789')
    assert sum(line.count('[') for line in lines) == 2 * 6  # batches of 64 of 360


AFTER_TRAINING = (
    *('predict', 'evaluate', 'report', 'features', 'few_shot', 'models', 'convert'),
    *('export', 'visualize', 'summary', 'compare'),
)


@pytest.mark.parametrize(
    'arguments',
    # finetune.py reads weights: it is run with the quickstart.
    [a for a in calls('vit_jax.main') if 'finetune.py' not in a[0]],
    ids=lambda a: a[0],
)
def test_commands_of_training_are_valid(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    config, options = recipe.parse(['main', *arguments])
    config_lib.check(config)
    assert options.workdir.startswith('runs/')


@pytest.mark.parametrize('name', ['evaluate', 'predict'])
def test_options_exist(name):
    known = python(['-m', f'vit_jax.{name}', '--help'], ROOT, os.environ)
    used = {word for a in calls(f'vit_jax.{name}') for word in a if word[:2] == '--'}
    assert used
    assert all(re.search(rf'{option}\b', known) for option in used)


def test_every_command_is_known_here():
    """A new kind of command needs a test here."""
    kinds = {' '.join(words[:3]) for words in commands() if words[0] == 'python'}
    assert kinds == {
        'python -m vit_jax.main',
        *(f'python -m vit_jax.{name}' for name in AFTER_TRAINING),
        'python -m pytest',
        'python scripts/run_exported.py quickstart-exported',
    }
    extras = set(declared.requirements()) - {'core'}
    for page in PAGES:
        for names in re.findall(r"'\.\[([\w,]+)\]'", page.read_text()):
            assert set(names.split(',')) <= extras


def test_table_of_models():
    rows = re.findall(r'^\| (\S+) \| (\w+) \| ([\d,]+) \|$', README, re.MULTILINE)
    names = [name for name in models.list_models() if 'testing' not in name]
    assert [name for name, _, _ in rows] == names
    assert [models.SHORT_NAMES[short] for _, short, _ in rows] == names
    counts = [int(count.replace(',', '')) for _, _, count in rows]
    assert counts == [registry_test.COUNTS[name] for name in names]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    text = page.read_text()
    for target in re.findall(r'\]\(([^)#\s]+)', text):
        if '://' not in target:
            assert (page.parent / target).exists(), target
    keys = config_lib.flatten(recipe.load_recipe('vit.py:r50_b16,cifar10'))
    for key in re.findall(r'--config\.([\w.]+\w)', text):
        assert key in keys or key == 'key', key


def test_migrating_names_every_key():
    text = (ROOT / 'docs/migrating.md').read_text()
    keys = config_lib.flatten(config_lib.default())
    (section,) = re.findall(r'^## Config keys\n(.*?)^## ', text, re.DOTALL | re.M)
    named = set(re.findall(r'`([\w.]+)', section))
    assert {*keys, *config_lib.GONE} - {'model'} <= named


def test_migrating_names_what_exists():
    """Names in the right column of the table of imports can be imported."""
    from vit_jax import checkpoint, data, optim, train
    from vit_jax.models import layers, resnet, vit
    from vit_jax.training import step as train_step

    for module, names in {
        layers: ['AddPositionEmbs', 'MlpBlock', 'PreLogits'],
        vit: ['EncoderBlock', 'Encoder'],
        resnet: ['standardize', 'StdConv', 'ResidualUnit', 'ResNetStage'],
        checkpoint: ['load', 'save', 'open', 'load_pretrained', 'resize_posembed'],
        data: ['open_dataset', 'train_batches', 'eval_batches'],
        optim: ['create_learning_rate_schedule'],
        train: ['train_and_evaluate', 'train_step'],
        train_step: ['accumulate_gradient'],
    }.items():
        text = (ROOT / 'docs/migrating.md').read_text()
        for name in names:
            assert name in text
            assert hasattr(module, name), name


def test_the_map_is_that_of_the_sources():
    """docs/architecture.md is kept true: its table of files comes from docstrings."""
    text = (ROOT / 'docs/architecture.md').read_text()
    (block,) = re.findall(r'^```\n(vit_jax/\n.*?)^```', text, re.DOTALL | re.M)
    result = subprocess.run(
        [sys.executable, ROOT / 'scripts/pages.py', 'map'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert block == result.stdout, 'run: python scripts/pages.py --write'


def test_the_page_of_keys_is_that_of_the_sources():
    result = subprocess.run(
        [sys.executable, ROOT / 'scripts/pages.py', 'keys'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    page = (ROOT / 'docs/config.md').read_text()
    assert page == result.stdout, 'run: python scripts/pages.py --write'


def test_table_of_published_files():
    """What the command prints, kept in docs/weights.md."""
    from vit_jax.models import __main__ as command

    table = command.table(command.rows(), markdown=True)
    assert table in (ROOT / 'docs/weights.md').read_text()
