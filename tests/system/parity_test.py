"""Against the real libraries, where they are installed (requirements/parity.txt)."""

import itertools
import json

import numpy as np
import pytest
from flax import traverse_util
from registry_test import COUNTS

from vit_jax import checkpoint, models
from vit_jax.checkpoint.ports import repository, translate
from vit_jax.checkpoint.weights import TreeWeights

torch = pytest.importorskip('torch')

pytestmark = pytest.mark.filterwarnings('ignore')

WIDTHS = {'embed_dim': 24, 'depth': 2, 'num_heads': 3, 'num_classes': 5}


@pytest.fixture(scope='session')
def timm():
    # torchvision's wheel has its own operators for CUDA alone; timm's models need none
    # of them, but importing it wants to see them declared.
    library = torch.library.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms'):
        library.define(f'{name}(Tensor dets, Tensor scores, float iou) -> Tensor')
    yield pytest.importorskip('timm')
    del library


@pytest.fixture(scope='session')
def transformers(timm):
    return pytest.importorskip('transformers')


def close(found, expected):
    expected = expected.detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def images_for(size, channels=3):
    shape = (2, *size, channels)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def as_torch(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def ours(reference, images):
    model, params, _ = checkpoint.load_model(reference)
    return model.apply({'params': params}, images)


def randomized(model):
    """Gives every parameter a value that would show if it were in a wrong place."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, x in model.named_parameters():
            noise = torch.randn(x.shape, generator=generator)
            scale = 1.0 if x.ndim > 1 and 'norm' not in name else 0.3
            fan = max(1, x[0].numel()) if x.ndim > 1 else 1
            base = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
            x.copy_(base + scale * noise / fan**0.5)
    return model.eval()


TIMM = {
    'ViT': ('vit_base_patch16_224', {'img_size': 48, **WIDTHS}, (48, 48)),
    'not square': ('vit_base_patch16_224', {'img_size': (32, 64), **WIDTHS}, (32, 64)),
    'tanh': ('vit_base_patch16_224',
             {'img_size': 48, 'act_layer': 'gelu_tanh', **WIDTHS}, (48, 48)),
    'gap': ('vit_base_patch16_224',
            {'img_size': 48, 'class_token': False, 'global_pool': 'avg',
             'fc_norm': False, **WIDTHS}, (48, 48)),
    'R+Ti': ('vit_tiny_r_s16_p8_224', {'img_size': 64, **WIDTHS}, (64, 64)),
    'R26+S': ('vit_small_r26_s32_224', {'img_size': 64, **WIDTHS}, (64, 64)),
    'R50+B': ('vit_base_r50_s16_224', {'img_size': 64, **WIDTHS}, (64, 64)),
}  # fmt: skip


@pytest.mark.parametrize('case', TIMM)
def test_timm_and_back(timm, tmp_path, case):
    from safetensors.torch import load_file, save_file

    name, args, size = TIMM[case]
    theirs = randomized(timm.create_model(name, **args))
    folder = tmp_path / 'repository'
    folder.mkdir()
    save_file(theirs.state_dict(), folder / 'model.safetensors')
    known = {k: x for k, x in args.items() if k != 'num_classes'}
    config = {'architecture': name, 'num_classes': 5, 'model_args': known,
              'global_pool': args.get('global_pool', 'token')}  # fmt: skip
    (folder / 'config.json').write_text(json.dumps(config))

    images = images_for(size)
    found = ours(folder, images)
    close(found, theirs(as_torch(images)))

    # Back, strictly, and bit for bit.
    _, params, card = checkpoint.load_model(folder)
    repository.save(tmp_path / 'x.safetensors', params, card, 'timm')
    state = load_file(tmp_path / 'x.safetensors')
    again = timm.create_model(name, **args)
    again.load_state_dict(state, strict=True)
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key

    # timm makes the model of the repository that we write.
    repository.save(tmp_path / 'ours', params, card, 'timm')
    made = timm.create_model(f'local-dir:{tmp_path / "ours"}', pretrained=True).eval()
    close(found, made(as_torch(images)))


def test_timm_mixer_and_back(timm, tmp_path):
    from safetensors.torch import load_file, save_file

    def make():
        return timm.models.mlp_mixer.MlpMixer(
            img_size=48, patch_size=16, num_blocks=2, embed_dim=24, num_classes=5
        )

    theirs = randomized(make())
    path = tmp_path / 'x.safetensors'
    save_file(theirs.state_dict(), path)
    images = images_for((48, 48))
    found = ours(path, images)
    close(found, theirs(as_torch(images)))

    _, params, card = checkpoint.load_model(path)
    repository.save(tmp_path / 'y.safetensors', params, card, 'timm')
    again = make()
    again.load_state_dict(load_file(tmp_path / 'y.safetensors'), strict=True)
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    with pytest.raises(ValueError, match='Mixers of the published sizes only'):
        repository.save(tmp_path / 'repository', params, card, 'timm')


def test_timm_knows_the_mixers_that_we_write(timm):
    mixer = next(port for port in translate.PORTS if port.name == 'timm Mixer')
    for name in ('Mixer-S_32', 'Mixer-B_16', 'Mixer-L_16'):
        size = int(name.rpartition('_')[2])
        card = checkpoint.ModelCard(models.get_config(name), 5, (224, 224))
        kernel = np.zeros((size, size, 3, 8), 'f')
        weights = TreeWeights({'stem': {'kernel': kernel}})
        config = mixer.files(card, weights)['config.json']
        theirs = timm.create_model(
            config['architecture'], num_classes=5, **config['model_args']
        )
        count = sum(x.numel() for x in theirs.parameters())
        assert count == COUNTS[name] - 995 * (theirs.num_features + 1)
        assert theirs.stem.proj.kernel_size == (size, size)


@pytest.mark.parametrize('activation', ['gelu', 'gelu_pytorch_tanh'])
def test_transformers_and_back(transformers, tmp_path, activation):
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=40, image_size=48, patch_size=16, hidden_act=activation,
        id2label={i: f'class {i}' for i in range(5)},
    )  # fmt: skip
    theirs = randomized(transformers.ViTForImageClassification(config))
    theirs.save_pretrained(tmp_path / 'theirs')
    images = images_for((48, 48))
    found = ours(tmp_path / 'theirs', images)
    close(found, theirs(as_torch(images)).logits)

    _, params, card = checkpoint.load_model(tmp_path / 'theirs')
    assert card.class_names[4] == 'class 4'
    repository.save(tmp_path / 'ours', params, card, 'huggingface')
    again, told = transformers.ViTForImageClassification.from_pretrained(
        tmp_path / 'ours', output_loading_info=True
    )
    assert not any(told[key] for key in ('missing_keys', 'unexpected_keys'))
    assert again.config.id2label[4] == 'class 4'
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    close(found, again.eval()(as_torch(images)).logits)


def test_transformers_prepares_images_as_the_card_says(transformers, tmp_path):
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=3,
        intermediate_size=40, image_size=32, patch_size=16,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / 'a')
    _, params, card = checkpoint.load_model(tmp_path / 'a')
    repository.save(tmp_path / 'b', params, card, 'huggingface')
    processor = transformers.ViTImageProcessor.from_pretrained(tmp_path / 'b')
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    found = processor(pixels, return_tensors='np')['pixel_values'][0]
    expected = (pixels.astype(np.float32) - card.mean) / card.std
    np.testing.assert_allclose(found.transpose(1, 2, 0), expected, atol=1e-6)


def test_bare_model_with_pooler(transformers, tmp_path):
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=40, image_size=48, patch_size=16,
    )  # fmt: skip
    theirs = randomized(transformers.ViTModel(config))
    theirs.save_pretrained(tmp_path / 'bare')
    images = images_for((48, 48))
    close(ours(tmp_path / 'bare', images), theirs(as_torch(images)).pooler_output)


def test_goldens_load_in_the_libraries(timm, transformers, golden, tmp_path):
    from conftest import GOLDEN
    from safetensors.torch import load_file

    model = timm.models.vision_transformer.VisionTransformer(
        img_size=64, patch_size=16, mlp_ratio=2, embed_dim=24, depth=2, num_heads=3,
        num_classes=7,
    )  # fmt: skip
    model.load_state_dict(load_file(GOLDEN / 'timm_vit.safetensors'), strict=True)
    images = golden('timm_vit_io.npz')['inputs/images']
    expected = golden('timm_vit_io.npz')['outputs/logits']
    np.testing.assert_allclose(
        model.eval()(as_torch(images)).detach(), expected, atol=1e-5
    )


def written(tmp_path, library, config, num_classes, size, channels):
    """A model with random weights as a repository, and what it gives for images.

    None: the library cannot be this model, and that is said.
    """
    model = models.from_config(config, num_classes=num_classes)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, *size, channels)).astype('f')
    shapes = traverse_util.flatten_dict(
        models.weight_shapes(model, size, channels), sep='/'
    )
    flat = {
        name: (name.endswith('scale') + 0.05 * rng.normal(size=leaf.shape)).astype('f')
        for name, leaf in shapes.items()
    }
    params = traverse_util.unflatten_dict(flat, sep='/')
    card = checkpoint.ModelCard(
        model=config, num_classes=num_classes, image_size=size, mean=127.5, std=127.5
    )
    try:
        repository.save(tmp_path / 'model', params, card, library)
    except ValueError as error:
        if 'What works: a .npz or a .safetensors' not in str(error):
            raise
        return None
    return images, np.asarray(model.apply({'params': params}, images))


PRODUCT = list(itertools.product(('token', 'gap'), (None, 16), (5, 0), (3, 1)))


@pytest.mark.parametrize(('classifier', 'pre_logits', 'classes', 'channels'), PRODUCT)
def test_what_timm_reads_it_computes(
    timm, tmp_path, classifier, pre_logits, classes, channels
):
    config = models.get_config('ViT-S_16').to_dict() | {'gelu': 'exact'}
    config |= {'classifier': classifier, 'representation_size': pre_logits}
    config |= {'hidden_size': 24}
    config['transformer'] |= {'num_layers': 2, 'num_heads': 3, 'mlp_dim': 40}
    found = written(tmp_path, 'timm', config, classes, (32, 48), channels)
    assert (found is None) == (pre_logits is not None)
    if found is not None:
        images, expected = found
        theirs = timm.create_model(f'local-dir:{tmp_path / "model"}', pretrained=True)
        theirs.eval()
        features = theirs.forward_features(as_torch(images))
        close(expected, theirs.forward_head(features, pre_logits=not classes))


@pytest.mark.parametrize(('classifier', 'pre_logits', 'classes', 'channels'), PRODUCT)
def test_what_transformers_reads_it_computes(
    transformers, tmp_path, classifier, pre_logits, classes, channels
):
    config = models.get_config('ViT-S_16').to_dict() | {'gelu': 'exact'}
    config |= {'classifier': classifier, 'representation_size': pre_logits}
    config |= {'hidden_size': 24, 'norm_epsilon': 1e-12}
    config['transformer'] |= {'num_layers': 2, 'num_heads': 3, 'mlp_dim': 40}
    found = written(tmp_path, 'huggingface', config, classes, (32, 48), channels)
    assert (found is None) == (classifier == 'gap' or bool(pre_logits and classes))
    if found is None:
        return
    images, expected = found
    kind, options = transformers.ViTForImageClassification, {}
    if not classes:
        kind, options = transformers.ViTModel, {'add_pooling_layer': bool(pre_logits)}
    theirs, told = kind.from_pretrained(
        tmp_path / 'model', output_loading_info=True, **options
    )
    assert not told['missing_keys']
    assert not told['unexpected_keys']
    result = theirs.eval()(as_torch(images))
    if classes:
        close(expected, result.logits)
    else:
        close(expected, result.pooler_output if pre_logits else result[0][:, 0])


@pytest.mark.parametrize('name', ['R+ViT-Ti_16', 'R26+ViT-S_32'])
@pytest.mark.parametrize('mlp_dim', [96, 40])
def test_hybrids_with_mlps_of_any_width(timm, tmp_path, name, mlp_dim):
    config = models.get_config(name).to_dict() | {'gelu': 'exact', 'hidden_size': 24}
    config['transformer'] |= {'num_layers': 1, 'num_heads': 3, 'mlp_dim': mlp_dim}
    config['resnet'] |= {'norm_epsilon': 1e-5, 'standardize': 'variance'}
    images, expected = written(tmp_path, 'timm', config, 5, (64, 64), 1)
    theirs = timm.create_model(f'local-dir:{tmp_path / "model"}', pretrained=True)
    close(expected, theirs.eval()(as_torch(images)))
