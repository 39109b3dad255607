"""Names that people rely on: what is documented can be imported, and run."""

import importlib
import os
import re
import subprocess
import sys

import declared
import pytest

from vit_jax.__main__ import COMMANDS

ROOT = declared.ROOT

# Where the documentation says that a name is; rooms behind them may change.
NAMES = {
    'vit_jax': ['Predictor', 'finetune', 'get_model', 'load', '__version__'],
    'vit_jax.checkpoint': [
        *('ModelCard', 'Weights', 'augreg', 'card_of', 'find_card'),
        *('get_augreg_df', 'interpolate_posembed', 'load', 'load_model'),
        *('load_pretrained', 'num_channels', 'open', 'resize_posembed', 'save'),
    ],
    'vit_jax.config': ['check', 'default'],
    'vit_jax.configs.augreg': ['get_config'],
    'vit_jax.configs.models': ['get_b16_config', 'get_testing_config'],
    'vit_jax.configs.vit': ['get_config'],
    'vit_jax.data': [
        *('Dataset', 'Example', 'Picked', 'Source', 'cached', 'decode'),
        *('eval_batches', 'open_dataset', 'open_folder', 'open_manifest'),
        *('pixels', 'train_batches', 'UndecodableImage'),
    ],
    'vit_jax.models': [
        *('AUGREG_CONFIGS', 'MODEL_CONFIGS', 'MlpMixer', 'VisionTransformer'),
        *('from_config', 'get_config', 'get_model', 'list_models', 'patch_grid'),
        *('stack', 'unstack'),
    ],
    'vit_jax.models.resnet': ['ResNetStage', 'ResidualUnit', 'StdConv', 'standardize'],
    'vit_jax.models.vit': ['Encoder', 'EncoderBlock', 'VisionTransformer'],
    'vit_jax.optim': ['create_learning_rate_schedule', 'create_optimizer'],
    'vit_jax.tasks': ['TASKS', 'Task'],
    'vit_jax.train': ['TrainState', 'train_and_evaluate', 'train_step'],
}


@pytest.mark.parametrize('module', NAMES)
def test_documented_names(module):
    imported = importlib.import_module(module)
    assert [name for name in NAMES[module] if not hasattr(imported, name)] == []


@pytest.mark.parametrize('noun', COMMANDS)
def test_commands_answer(noun, tmp_path):
    result = subprocess.run(
        [sys.executable, '-W', 'error', '-m', f'vit_jax.{noun}', '--help'],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, 'COLUMNS': '80'},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout
    assert not result.stderr


def test_every_command_of_the_documentation_is_listed():
    pages = [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')]
    text = '\n'.join(page.read_text() for page in pages)
    assert set(re.findall(r'python -m vit_jax\.(\w+)', text)) <= set(COMMANDS)
