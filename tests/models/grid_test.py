import jax
import numpy as np
import pytest

from vit_jax import models


@pytest.mark.parametrize(
    ('name', 'size', 'grid'),
    [
        ('ViT-B_16', (224, 224), (14, 14)),
        ('ViT-B_16', (384, 512), (24, 32)),
        ('ViT-B_8', (224, 232), (28, 29)),
        ('ViT-H_14', (378, 224), (27, 16)),
        ('ViT-L_32', (32, 64), (1, 2)),
        ('R+ViT-Ti_16', (224, 64), (7, 2)),
        ('R+ViT-Ti_16', (221, 61), (7, 2)),  # the root rounds up
        ('R50+ViT-B_16', (384, 224), (24, 14)),
        ('R50+ViT-B_16', (17, 1), (2, 1)),
        ('R26+ViT-S_32', (225, 33), (8, 2)),
        ('R50+ViT-L_32', (384, 200), (12, 7)),
    ],
)
def test_patch_grid_is_what_the_model_makes(name, size, grid):
    config = models.MODEL_CONFIGS[name]
    assert models.patch_grid(config, size) == grid
    assert models.patch_grid(config.to_dict(), size) == grid

    model = models.from_config(config, num_classes=0, scan_layers=True)
    assert models.patch_grid(model, size) == grid
    images = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)['params']
    posembed = params['Transformer']['posembed_input']['pos_embedding']
    assert posembed.shape[1] == grid[0] * grid[1] + 1


@pytest.mark.parametrize(
    ('name', 'size', 'works'),
    [
        ('ViT-H_14', (384, 384), '378x378, 392x392'),
        ('ViT-B_16', (224, 230), '224x224, 224x240'),
        ('ViT-B_16', (8, 230), '16x240'),  # nothing smaller
        ('ViT-B_16', (0, 16), '16x16'),
        # 230 / 4 is rounded up to 58, between 7 and 8 patches of 8.
        ('R+ViT-Ti_16', (230, 224), '224x224, 253x224'),
    ],
)
def test_the_error_names_the_nearest_sizes_that_work(name, size, works):
    config = models.MODEL_CONFIGS[name]
    with pytest.raises(ValueError, match='cannot take images of') as error:
        models.patch_grid(config, size)
    message = str(error.value)
    assert message.startswith(f'{name} cannot take images of {size[0]}x{size[1]}')
    assert message.endswith(f'that work: {works}.')
    for suggestion in works.split(', '):
        height, width = map(int, suggestion.split('x'))
        models.patch_grid(config, (height, width))
        # Nearest: one pixel nearer does not work.
        for side, found in [(size[0], height), (size[1], width)]:
            if side != found:
                nearer = found + (1 if found < side else -1)
                with pytest.raises(ValueError, match='cannot take'):
                    models.patch_grid(config, (nearer, nearer))


@pytest.mark.parametrize(
    ('classifier', 'expected'),
    [('token', 1), ('gap', 0), ('unpooled', 0), ('token_unpooled', 1)],
)
def test_num_prefix_tokens(classifier, expected):
    config = models.get_config('testing')
    config.classifier = classifier
    assert models.num_prefix_tokens(config) == expected
    assert models.num_prefix_tokens(config.to_dict()) == expected
    assert (
        models.num_prefix_tokens(models.from_config(config, num_classes=2)) == expected
    )
