"""Every recipe runs, two steps at tiny size, through the command line's main()."""

import functools
import hashlib
import http.server
import json
import math
import threading

import conftest
import main_test
import pytest
import without_tensorflow

from vit_jax import checkpoint, main, models
from vit_jax.command_line import recipe

REFERENCES = [name + arg for name, args in main_test.RECIPES.items() for arg in args]
# What makes a model tiny but leaves its kind: hybrids keep a ResNet root.
TINY_MODEL = {
    'hidden_size': 12,
    'transformer.mlp_dim': 14,
    'transformer.num_heads': 2,
    'transformer.num_layers': 1,
}
TINY_MIXER = {
    'hidden_dim': 12,
    'num_blocks': 1,
    'tokens_mlp_dim': 8,
    'channels_mlp_dim': 14,
}
TINY_RUN = {
    'pp.crop': 32,
    'batch': 8,
    'accum_steps': 1,
    'total_steps': 2,
    'warmup_steps': 1,
    'eval_every': 2,
    'progress_every': 1,
    'checkpoint_every': 2,
    'num_threads': 2,
}


def tiny_model(config) -> dict:
    """Returns settings of config.model."""
    if 'hidden_dim' in config.model:
        return TINY_MIXER
    if 'resnet' not in config.model:
        return TINY_MODEL
    # GroupNorm's 32 groups need as many channels.
    settings = {**TINY_MODEL, 'resnet.width_factor': 0.5}
    if config.model.resnet.num_layers:
        settings['resnet.num_layers'] = (1,)
    return settings


def save_tiny_pretrained(path, config) -> None:
    """Writes weights of the recipe's model at tiny size, for another image size."""
    import jax
    import jax.numpy as jnp

    model_config = config.copy_and_resolve_references().model
    model_config.update_from_flattened_dict(tiny_model(config))
    model = models.from_config(model_config, num_classes=7)
    side = 32 if 'hidden_dim' in model_config else 64  # a Mixer is bound to its size
    images = jnp.zeros((1, side, side, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    checkpoint.save(path, variables['params'])


def flags(settings: dict, prefix: str = '') -> list[str]:
    return [f'--config.{prefix}{key}={value}' for key, value in settings.items()]


@pytest.mark.parametrize('reference', REFERENCES)
def test_two_steps(reference, photos, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
    command = ['main', f'--config={reference}', f'--workdir={tmp_path / "run"}']
    config, _ = recipe.parse(command)
    settings = flags({**TINY_RUN, **flags_of_data(config, photos)})
    settings += flags(tiny_model(config), prefix='model.')
    if config.pretrained is not None:
        save_tiny_pretrained(tmp_path / 'tiny.npz', config)
        settings += [f'--config.pretrained={tmp_path / "tiny.npz"}']
    assert main.main([*command, *settings]) == 0, capfd.readouterr().err

    lines = (tmp_path / 'run/metrics.jsonl').read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    assert [line['step'] for line in steps] == [1, 2]
    assert all(math.isfinite(line['loss']) for line in steps)
    _, params, card = checkpoint.load_model(tmp_path / 'run')
    assert params['head']['kernel'].shape[0] == 12
    assert params['head']['bias'].shape == (len(card.class_names),)


def flags_of_data(config, photos) -> dict:
    """Returns what replaces a dataset that is not on this machine."""
    if config.dataset == 'digits':
        return {}
    splits = {'pp.train': 'train', 'pp.val': 'test[:60%]', 'pp.test': 'test[60%:]'}
    return {'dataset': photos, **splits}


@pytest.fixture
def mirror():
    """Serves made-up CIFAR archives of the real layout; yields the environment."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    folder = conftest.GOLDEN / 'cifar'
    archive = (folder / 'cifar-10-binary.tar.gz').read_bytes()
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield {
            'NO_PROXY': '127.0.0.1',
            'VIT_JAX_CIFAR_URL': f'http://127.0.0.1:{server.server_port}',
            'VIT_JAX_CIFAR_CHECKSUM': (
                f'{len(archive)}:{hashlib.sha256(archive).hexdigest()}'
            ),
        }
        server.shutdown()
        thread.join()


# What `python -m MODULE ARGUMENTS` does, where TensorFlow cannot be imported.
RUN = """
import runpy, sys
sys.argv = {arguments!r}
try:
    runpy.run_module({module!r}, run_name='__main__', alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
"""


def test_cifar10_from_the_download_to_the_evaluation(mirror, tmp_path):
    """`vit.py:b16,cifar10`, with the preset's splits, without TensorFlow."""
    config, _ = recipe.parse(['main', '--config=vit.py:b16,cifar10', '--workdir=x'])
    save_tiny_pretrained(tmp_path / 'ViT-B_16.npz', config)

    def run(module, *arguments):
        process = without_tensorflow.start(
            RUN.format(module=module, arguments=[module, *arguments]),
            XLA_FLAGS='',  # one device
            TFDS_DATA_DIR=str(tmp_path / 'tfds'),
            **mirror,
        )
        return without_tensorflow.finish(process)

    run(
        'vit_jax.main',
        '--config=configs/vit.py:b16,cifar10',
        f'--workdir={tmp_path / "run"}',
        f'--config.pretrained_dir={tmp_path}',
        *flags(TINY_RUN),
        *flags(TINY_MODEL, prefix='model.'),
    )
    recorded = json.loads((tmp_path / 'run/run.json').read_text())
    examples = {row['split']: row['num_examples'] for row in recorded['results']}
    # The archive holds 100 and 30 images; train[:98%] trains.
    assert examples == {'train[98%:]': 2, 'test': 30}
    card = checkpoint.ModelCard.load(tmp_path / 'run/model.json')
    assert card.class_names[0] == 'airplane'
    output = run('vit_jax.evaluate', str(tmp_path / 'run'), '--json')
    result = json.loads(output.splitlines()[-1])
    assert (result['split'], result['num_examples']) == ('test', 30)
    last = next(row for row in recorded['results'] if row['role'] == 'test')
    assert result['accuracy'] == last['accuracy']


def test_configs_of_models_under_the_originals_import_path():
    from vit_jax.configs import models as configs

    b16 = configs.get_b16_config()
    assert b16.to_dict() == models.MODEL_CONFIGS['ViT-B_16'].to_dict()
    assert (b16.hidden_size, b16.patches.size) == (768, (16, 16))
    assert configs.get_r50_l32_config().resnet.num_layers == (3, 4, 6, 3)
    assert configs.AUGREG_CONFIGS is models.AUGREG_CONFIGS
    assert {f'get_{name}_config' for name in models.SHORT_NAMES} <= set(configs.__all__)


@pytest.mark.parametrize('argument', ['l16,cifar10', 'r50_b16,/photos', 'h14,cifar10'])
def test_a_probe_sees_features_without_dropout(argument):
    config = recipe.load_recipe(f'linear_probe.py:{argument}')
    assert config.model.transformer.dropout_rate == 0
    assert config.pp.crop == 224
    assert recipe.load_recipe(f'vit.py:{argument}').model.transformer.dropout_rate > 0


def test_a_mixer_is_probed_at_its_own_size():
    config = recipe.load_recipe('linear_probe.py:mixer_b16,cifar10')
    assert (config.pp.crop, config.batch, config.base_lr) == (224, 512, 0.01)


def test_every_recipe_is_a_run_book():
    for path in sorted((conftest.GOLDEN.parents[1] / 'configs').glob('*.py')):
        if path.stem not in ('__init__', 'models'):
            text = path.read_text()
            assert f'python -m vit_jax.main --config=configs/{path.name}' in text
