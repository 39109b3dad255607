"""Loading weights into a new model: what changes, what is kept, what is refused."""

import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest
from conftest import GOLDEN
from flax import traverse_util
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vit_jax import checkpoint, main, models

FIELDS = (
    'patches',
    'transformer',
    'hidden_size',
    'resnet',
    'representation_size',
    'classifier',
    'num_blocks',
    'hidden_dim',
    'tokens_mlp_dim',
    'channels_mlp_dim',
)


def config_of(name, **overrides):
    content = json.loads((GOLDEN / f'{name}.json').read_text())
    return {k: content[k] for k in FIELDS if content.get(k) is not None} | overrides


def abstract(config, num_classes, size, channels=3, **fields):
    model = models.from_config(config, num_classes=num_classes, **fields)
    images = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
    shapes = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x, train=False), images
    )
    return model, shapes['params']


def logits_of(model, params, images):
    params = jax.tree.map(jnp.asarray, params)
    return jax.jit(model.apply, static_argnames='train')(
        {'params': params}, images, train=False
    )


def flat(tree):
    return traverse_util.flatten_dict(tree, sep='/')


def load(name, config, init_params, **kwargs):
    return checkpoint.load_pretrained(
        pretrained_path=name if hasattr(name, 'parent') else GOLDEN / f'{name}.npz',
        init_params=init_params,
        model_config=config,
        **kwargs,
    )


@pytest.mark.parametrize(
    ('name', 'num_classes'),
    [
        ('vit_token', 7),
        ('vit_token_rep', 7),
        ('vit_gap', 5),
        ('vit_tiny_legacy', 5),
        ('hybrid_tiny_legacy', 5),
    ],
)
def test_kept_whole_gives_the_golden_logits(golden, name, num_classes):
    arrays = golden(f'{name}.npz')
    images, logits = arrays['inputs/images'], arrays['outputs/logits']
    config = config_of(name)
    model, init_params = abstract(config, num_classes, images.shape[1:3])
    params = load(name, config, init_params, keep_head=True)
    found = logits_of(model, params, images)
    np.testing.assert_allclose(found, logits, atol=1e-5 * np.abs(logits).max())


def test_new_head_is_what_was_given():
    config = config_of('vit_token')
    _, init_params = abstract(config, 3, (64, 64))
    params = load('vit_token', config, init_params)
    assert isinstance(params['head']['kernel'], jax.ShapeDtypeStruct)
    assert params['head']['kernel'] is init_params['head']['kernel']
    published = checkpoint.load(GOLDEN / 'vit_token.npz')
    del params['head'], published['head']
    jax.tree.map(np.testing.assert_array_equal, params, published)


def test_model_without_head():
    config = config_of('vit_token')
    _, init_params = abstract(config, 0, (64, 64))
    assert 'head' not in load('vit_token', config, init_params)
    with pytest.raises(ValueError, match='the model has no head'):
        load('vit_token', config, init_params, keep_head=True)


def test_pre_logits_dropped_with_the_head_alone():
    config = config_of('vit_token_rep', representation_size=None)
    _, init_params = abstract(config, 7, (64, 64))
    assert 'pre_logits' not in load('vit_token_rep', config, init_params)
    # A head reads the pre-logits it was trained on: kept without them it is wrong.
    init_params['head']['kernel'] = jax.ShapeDtypeStruct((20, 7), jnp.float32)
    with pytest.raises(ValueError, match=r'\+ unexpected: pre_logits/kernel') as e:
        load('vit_token_rep', config, init_params, keep_head=True)
    assert 'Set model.representation_size to 20' in str(e.value)


def test_pre_logits_kept_or_missing():
    config = config_of('vit_token_rep')
    _, init_params = abstract(config, 3, (64, 64))
    params = load('vit_token_rep', config, init_params)
    assert params['pre_logits']['kernel'].shape == (24, 20)
    config = config_of('vit_token', representation_size=20)
    _, init_params = abstract(config, 3, (64, 64))
    with pytest.raises(ValueError, match='- missing: pre_logits/kernel') as e:
        load('vit_token', config, init_params)
    assert 'Set model.representation_size to None' in str(e.value)


def test_class_token_is_not_dropped_silently():
    config = config_of('vit_token', classifier='gap')
    _, init_params = abstract(config, 3, (64, 64))
    with pytest.raises(ValueError, match=r'\+ unexpected: cls') as e:
        load('vit_token', config, init_params)
    assert "set model.classifier to 'token'" in str(e.value)
    config = config_of('vit_gap', classifier='token')
    _, init_params = abstract(config, 3, (64, 64))
    with pytest.raises(ValueError, match='- missing: cls') as e:
        load('vit_gap', config, init_params)
    assert "set model.classifier to 'gap'" in str(e.value)


def test_position_embeddings_are_resized(golden):
    config = config_of('vit_token')
    for size, image_size in (((96, 96), None), ((48, 80), (48, 80))):
        _, init_params = abstract(config, 3, size)
        params = load('vit_token', config, init_params, image_size=image_size)
        old = golden('vit_token.npz')['params/Transformer/posembed_input/pos_embedding']
        grid = (size[0] // 16, size[1] // 16)
        expected = checkpoint.resize_posembed(old, (4, 4), grid, 1)
        found = params['Transformer']['posembed_input']['pos_embedding']
        np.testing.assert_array_equal(found, expected)


def test_same_number_of_tokens_in_another_grid():
    config = config_of('vit_token')
    _, init_params = abstract(config, 3, (32, 128))
    params = load('vit_token', config, init_params, image_size=(32, 128))
    found = params['Transformer']['posembed_input']['pos_embedding']
    old = checkpoint.load(GOLDEN / 'vit_token.npz')['Transformer']['posembed_input']
    assert found.shape == old['pos_embedding'].shape
    assert np.abs(found - old['pos_embedding']).max() > 0.01


def test_rectangular_grid_needs_to_be_told(tmp_path):
    config = config_of('vit_token')
    _, init_params = abstract(config, 3, (48, 80))
    with pytest.raises(ValueError, match='say which image size'):
        load('vit_token', config, init_params)
    with pytest.raises(ValueError, match='give the same image size to both'):
        load('vit_token', config, init_params, image_size=(48, 48))
    # The file's own grid stands in its card.
    params = load('vit_token', config, init_params, image_size=(48, 80))
    params['head'] = {'kernel': np.zeros((24, 3), 'f'), 'bias': np.zeros(3, 'f')}
    path = tmp_path / 'model.npz'
    checkpoint.save(path, params)
    _, square = abstract(config, 3, (64, 64))
    with pytest.raises(ValueError, match=r'model card \(model.json\) beside'):
        load(path, config, square)
    card = checkpoint.ModelCard(model=config, num_classes=3, image_size=(48, 80))
    card.save(tmp_path / 'model.json')
    found = load(path, config, square)['Transformer']['posembed_input']['pos_embedding']
    rectangle = params['Transformer']['posembed_input']['pos_embedding']
    np.testing.assert_array_equal(
        found, checkpoint.resize_posembed(rectangle, (3, 5), (4, 4), 1)
    )
    card = checkpoint.ModelCard(model=config, num_classes=3, image_size=(48, 48))
    card.save(tmp_path / 'model.json')
    with pytest.raises(ValueError, match='do not belong together'):
        load(path, config, square)


@pytest.fixture
def named(tmp_path):
    """A copy of vit_gap whose card names its five classes."""
    path = tmp_path / 'model.npz'
    checkpoint.save(path, checkpoint.load(GOLDEN / 'vit_gap.npz'))
    checkpoint.ModelCard(
        model=config_of('vit_gap'),
        num_classes=5,
        image_size=(64, 64),
        class_names=['ant', 'bee', 'cat', 'dog', 'elk'],
    ).save(tmp_path / 'model.json')
    return path


def test_kept_head_follows_the_class_names(golden, named):
    arrays = golden('vit_gap.npz')
    config = config_of('vit_gap')
    model, init_params = abstract(config, 5, (64, 64))
    names = ['dog', 'ant', 'elk', 'bee', 'cat']
    params = load(named, config, init_params, keep_head=True, class_names=names)
    logits = logits_of(model, params, arrays['inputs/images'])
    expected = arrays['outputs/logits'][:, [3, 0, 4, 1, 2]]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    kept = load(named, config, init_params, keep_head=True)
    np.testing.assert_array_equal(
        kept['head']['bias'], checkpoint.load(named)['head']['bias']
    )


def test_kept_head_wants_the_same_classes(named):
    config = config_of('vit_gap')
    _, init_params = abstract(config, 5, (64, 64))
    with pytest.raises(ValueError, match='class names do not agree') as e:
        load(
            named,
            config,
            init_params,
            keep_head=True,
            class_names=['ant', 'bee', 'cat', 'cow', 'elk'],
        )
    assert '- only in the dataset: cow\n  + only in the weights: dog' in str(e.value)
    with pytest.raises(ValueError, match='2 class names for a model of 5 classes'):
        load(named, config, init_params, keep_head=True, class_names=['a', 'b'])
    _, init_params = abstract(config, 4, (64, 64))
    with pytest.raises(ValueError, match='has 5 classes, the model 4'):
        load(named, config, init_params, keep_head=True)


def test_file_without_head(tmp_path):
    params = checkpoint.load(GOLDEN / 'vit_gap.npz')
    del params['head']
    checkpoint.save(tmp_path / 'a.npz', params)
    config = config_of('vit_gap')
    _, init_params = abstract(config, 5, (64, 64))
    load(tmp_path / 'a.npz', config, init_params)
    with pytest.raises(ValueError, match='has no head to keep'):
        load(tmp_path / 'a.npz', config, init_params, keep_head=True)


def zoo_file(path, name, size=64):
    """Writes a file of a published model's shapes, almost all zeros left out."""
    _, shapes = abstract(models.get_config(name), 10, (size, size))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), shapes)
    checkpoint.save(path, params)
    return path


def test_wrong_architecture_names_the_right_one(tmp_path):
    path = zoo_file(tmp_path / 'x.npz', 'ViT-S_16')
    config = models.get_config('ViT-Ti_16')
    _, init_params = abstract(config, 10, (64, 64))
    with pytest.raises(
        ValueError, match=r'x\.npz does not fit the model ViT-Ti_16'
    ) as e:
        load(path, config, init_params)
    message = str(e.value)
    assert (
        '! misshapen: embedding/kernel is (16, 16, 3, 384) in the file, '
        '(16, 16, 3, 192) in the model'
    ) in message
    assert 'Transformer/encoderblock_{0..11}/LayerNorm_0/scale' in message
    assert 'These look like the weights of ViT-S_16 (width 384 in the file' in message
    config = models.get_config('R26+ViT-S_32')
    _, init_params = abstract(config, 10, (64, 64))
    with pytest.raises(ValueError, match='- missing: conv_root/kernel') as e:
        load(path, config, init_params)
    assert 'ViT-S_16' in str(e.value)


@pytest.mark.parametrize('name', ['vit_gap', 'hybrid_r50like', 'mixer'])
def test_grey_images(golden, name, caplog):
    arrays = golden(f'{name}.npz')
    images = arrays['inputs/images']
    config = config_of(name)
    num_classes = len(arrays['params/head/bias'])
    model, init_params = abstract(config, num_classes, images.shape[1:3], channels=1)
    with caplog.at_level('INFO'):
        params = load(name, config, init_params, keep_head=True)
    assert 'sees 3 channels, the model 1: its first kernel is summed' in caplog.text
    grey = images[..., :1]
    rgb_model, rgb_init = abstract(config, num_classes, images.shape[1:3])
    rgb_params = load(name, config, rgb_init, keep_head=True)
    expected = logits_of(rgb_model, rgb_params, np.repeat(grey, 3, axis=3))
    np.testing.assert_allclose(logits_of(model, params, grey), expected, atol=1e-5)


def test_mixer_is_bound_to_its_tokens(golden):
    config = config_of('mixer')
    size = golden('mixer.npz')['inputs/images'].shape[1:3]
    assert size == (64, 64)
    _, init_params = abstract(config, 5, (96, 96))
    with pytest.raises(ValueError, match=r'16, which are images of 64x64 pixels. Set '):
        load('mixer', config, init_params)


def test_mixer_weights_for_a_vision_transformer():
    config = config_of('vit_gap')
    _, init_params = abstract(config, 5, (64, 64))
    with pytest.raises(ValueError, match='family MLP-Mixer in the file, Vision Trans'):
        load('mixer', config, init_params)


def test_other_files_are_no_vision_transformers(tmp_path):
    np.savez(tmp_path / 'x.npz', **{'stem/kernel': np.ones((2, 2))})
    config = config_of('vit_gap')
    _, init_params = abstract(config, 5, (64, 64))
    with pytest.raises(ValueError, match='not the weights of a Vision Transformer'):
        load(tmp_path / 'x.npz', config, init_params)


def test_incomplete_file(tmp_path):
    params = checkpoint.load(GOLDEN / 'vit_gap.npz')
    del params['Transformer']['encoderblock_1']['LayerNorm_1']['bias']
    checkpoint.save(tmp_path / 'x.npz', params)
    config = config_of('vit_gap')
    _, init_params = abstract(config, 5, (64, 64))
    with pytest.raises(ValueError, match='does not fit') as e:
        load(tmp_path / 'x.npz', config, init_params)
    assert str(e.value).splitlines()[1:] == [
        '  - missing: Transformer/encoderblock_1/LayerNorm_1/bias (24,)',
        'The file seems to be incomplete, or made by other code.',
        "If these are new in your model: --config.new_parameters='LayerNorm_1/bias' "
        'lets them start as the model says.',
    ]


def test_dtype_and_place_are_the_leafs():
    config = config_of('vit_token')
    _, shapes = abstract(config, 7, (64, 64))
    mesh = jax.make_mesh((8,), ('x',), axis_types=(AxisType.Auto,))

    def placed(leaf):
        spec = ('x',) if leaf.shape[0] % 8 == 0 else ()
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=sharding)

    init_params = jax.tree.map(placed, shapes)
    params = load('vit_token', config, init_params, keep_head=True)
    published = flat(checkpoint.load(GOLDEN / 'vit_token.npz'))
    for name, array in flat(params).items():
        leaf = flat(init_params)[name]
        assert array.sharding == leaf.sharding
        assert array.dtype == jnp.bfloat16
        np.testing.assert_array_equal(array, published[name].astype(jnp.bfloat16))
    assert flat(params)['embedding/kernel'].addressable_data(0).shape == (2, 16, 3, 24)


def test_arrays_without_sharding_stay_in_host_memory():
    config = config_of('vit_token')
    _, shapes = abstract(config, 7, (64, 64))
    params = load('vit_token', config, shapes, keep_head=True)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))


def test_stacked_blocks(golden):
    arrays = golden('vit_tiny_legacy.npz')
    config = config_of('vit_tiny_legacy')
    model, init_params = abstract(config, 5, (24, 24), scan_layers=True)
    stacked = models.stack(checkpoint.load(GOLDEN / 'vit_tiny_legacy.npz'))
    assert flat(init_params).keys() == flat(stacked).keys()
    params = load('vit_tiny_legacy', config, init_params, keep_head=True)
    jax.tree.map(np.testing.assert_array_equal, params, stacked)
    logits = logits_of(model, params, arrays['inputs/images'])
    expected = arrays['outputs/logits']
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    # A missing layer is named as in the file.
    config = config_of('vit_tiny_legacy')
    config['transformer'] = config['transformer'] | {'num_layers': 12}
    _, init_params = abstract(config, 5, (24, 24), scan_layers=True)
    with pytest.raises(ValueError, match='- missing: Transformer/encoderblock_11/'):
        load('vit_tiny_legacy', config, init_params)


MEMORY = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from vit_jax import checkpoint, main, models

def status(key):
    with open('/proc/self/status') as f:
        return next(int(l.split()[1]) * 1024 for l in f if l.startswith(key))

config = models.get_config('ViT-L_16')
model = models.from_config(config, num_classes=1000, scan_layers='scan' in sys.argv)
images = jax.ShapeDtypeStruct((1, 384, 384, 3), jnp.float32)
shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
params = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes['params'])
jax.block_until_ready(jax.device_put(np.ones(10), device))
before = status('VmRSS')
with open('/proc/self/clear_refs', 'w') as f:
    f.write('5')  # forget the peak so far
params = checkpoint.load_pretrained(pretrained_path=sys.argv[1], init_params=params,
                                    model_config=config, keep_head=True)
leaves = jax.tree.leaves(params)
print(json.dumps({'before': before, 'peak': status('VmHWM'),
                  'placed': sum(x.nbytes for x in leaves),
                  'largest': max(x.nbytes for x in leaves)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('layout', ['published', 'scan'])
def test_memory_at_the_size_of_l16(tmp_path, layout):
    path = zoo_file_l16(tmp_path / 'ViT-L_16.npz')
    out = subprocess.run(
        [sys.executable, '-c', MEMORY, str(path), layout],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(out.stdout)
    beyond = found['peak'] - found['before'] - found['placed']
    print(layout, {k: f'{v / 1e6:.0f} MB' for k, v in found.items()}, beyond / 1e6)
    assert found['placed'] > 1.2e9
    assert beyond <= 2 * found['largest'] + 200e6


def zoo_file_l16(path):
    """Writes 1.2 GB in the published layout, fine-tuned at 224, a leaf at a time."""
    _, shapes = abstract(models.get_config('ViT-L_16'), 1000, (224, 224))
    params = jax.tree.map(lambda s: np.full(s.shape, 0.5, s.dtype), shapes)
    checkpoint.save(path, params)
    return path


class Scaled(nn.Module):
    """A linear layer of a published model, with a scale that somebody has added."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dense(4, name='embedding')(images.mean((1, 2)))
        x = x * self.param('gamma', nn.initializers.constant(1e-5), (4,))
        return nn.Dense(self.num_classes, name='head')(x)


SCALED = models.Family('Scaled', Scaled)


@pytest.mark.parametrize(
    ('expression', 'said'),
    [
        ('', "--config.new_parameters='gamma'"),
        ('gama', 'found in the name of no parameter'),
        ('gam(', 'no regular expression'),
        ('embedding', '- missing: gamma'),
    ],
)
def test_a_parameter_that_the_weights_do_not_have(
    expression, said, photos, tmp_path, capsys
):
    """Through the command: refused with what to type, and then trained."""
    weights = tmp_path / 'weights.npz'
    rng = np.random.default_rng(0)
    tree = {
        'embedding': {'kernel': rng.normal(size=(3, 4)), 'bias': np.ones(4)},
        'head': {'kernel': np.ones((4, 9)), 'bias': np.ones(9)},
    }
    checkpoint.save(weights, jax.tree.map(np.float32, tree))
    recipe = processes.write_recipe(tmp_path / 'tiny.py', photos)
    recipe.write_text(
        recipe.read_text().replace(
            'return config',
            f"config.model = {{'family': '{__name__}:SCALED'}}\n"
            f'    config.pretrained = {str(weights)!r}\n'
            '    config.base_lr = 0.0\n    return config',
        )
    )
    command = ['main', f'--config={recipe}', f'--workdir={tmp_path}/run']
    refused = [f'--config.new_parameters={expression}'] if expression else []
    assert main.main([*command, *refused]) == 2
    assert said in capsys.readouterr().err
    assert main.main([*command, '--config.new_parameters=gamma']) == 0
    log = (tmp_path / 'run' / 'train.log').read_text()
    assert 'initialised as the model says:\n  gamma (4,)' in log
    params = checkpoint.load(tmp_path / 'run' / 'model.npz')
    np.testing.assert_array_equal(params['gamma'], np.full(4, 1e-5, np.float32))
    np.testing.assert_array_equal(
        params['embedding']['kernel'], np.float32(tree['embedding']['kernel'])
    )


def test_new_parameters_of_stacked_blocks(tmp_path):
    """All blocks lack them, or none does."""
    config = config_of('vit_token')
    _, shapes = abstract(config, 3, (16, 16), scan_layers=True)
    with checkpoint.open(GOLDEN / 'vit_token.npz') as weights:
        arrays = {name: weights[name] for name in weights}
    scale = 'Transformer/encoderblock_{}/LayerNorm_0/scale'
    arrays.pop(scale.format(0))
    path = tmp_path / 'weights.npz'
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match='in some blocks and not in others'):
        load(path, config, shapes, new_parameters='LayerNorm_0/scale')
    _, unrolled = abstract(config, 3, (16, 16))
    params = load(path, config, unrolled, new_parameters='LayerNorm_0/scale')
    assert flat(params)[scale.format(0)] is flat(unrolled)[scale.format(0)]
    for i in range(1, config['transformer']['num_layers']):
        arrays.pop(scale.format(i))
    np.savez(path, **arrays)
    params = load(path, config, shapes, new_parameters='LayerNorm_0/scale')
    (leaf,) = (x for x in jax.tree.leaves(params) if not isinstance(x, np.ndarray)
               and x.ndim == 2 and x.shape[-1] != 3)  # fmt: skip
    assert leaf.shape[0] == config['transformer']['num_layers']
