import pytest

from vit_jax import models
from vit_jax.models.zoo import google_files


def test_every_row_is_of_the_zoo_and_stands_once():
    assert {row.model for row in google_files.PUBLISHED} <= set(models.list_models())
    paths = [row.path for row in google_files.PUBLISHED]
    assert len(set(paths)) == len(paths)
    twins = [twin for row in google_files.PUBLISHED for twin in row.twins]
    assert len(set(twins)) == len(twins)
    # Every architecture was published in at least one file.
    known = {row.model for row in google_files.PUBLISHED}
    assert set(models.list_models('*[0-9]*')) - known == set()


@pytest.mark.parametrize(
    ('reference', 'path'),
    [
        (
            'gs://vit_models/imagenet21k/ViT-B_16.npz',
            'vit_models/imagenet21k/ViT-B_16.npz',
        ),
        (
            'https://storage.googleapis.com/vit_models/imagenet21k/R50%2BViT-B_16.npz',
            'vit_models/imagenet21k/R50+ViT-B_16.npz',
        ),
        (
            '/data/imagenet21k+imagenet2012/ViT-B_16.npz',
            'vit_models/imagenet21k+imagenet2012/ViT-B_16.npz',
        ),
        ('ViT-H_14.npz', 'vit_models/imagenet21k/ViT-H_14.npz'),
        (
            'hf://timm/vit_base_patch16_224.augreg_in21k@main',
            'vit_models/augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-'
            'sd_0.0.npz',
        ),
        (
            'google/vit-base-patch16-384',
            'vit_models/imagenet21k+imagenet2012/ViT-B_16.npz',
        ),
        ('/somewhere/ViT-B_16.npz', None),  # five published files have this name
        ('hf://somebody/vit', None),
        ('', None),
    ],
)
def test_find(reference, path):
    row = google_files.find(reference)
    assert (row and row.path) == path


def test_alternatives():
    assert google_files.alternatives('gs://vit_models/imagenet21k/ViT-B_16.npz') == [
        'hf://timm/vit_base_patch16_224.orig_in21k',
        'hf://google/vit-base-patch16-224-in21k',
    ]
    # No twin: kin of the same architecture.
    kin = google_files.alternatives('gs://vit_models/sam/ViT-L_16.npz')
    assert 'hf://timm/vit_large_patch16_384.augreg_in21k_ft_in1k' in kin
    assert 'hf://google/vit-large-patch16-224' in google_files.alternatives('ViT-L_16')
    assert google_files.alternatives('/some/flowers.npz') == []


@pytest.mark.parametrize(
    ('hub_id', 'expected'),
    [
        ('timm/vit_base_patch16_224.augreg_in21k_ft_in1k', True),
        ('vit_base_patch16_224.orig_in21k', True),
        ('hf://google/vit-base-patch16-224@main', True),
        ('vit-base-patch16-224', True),
        ('timm/mixer_b16_224.goog_in21k_ft_in1k', True),
        ('timm/vit_base_patch16_224.augreg2_in21k_ft_in1k', False),
        ('timm/vit_base_patch16_224.mae', False),
        ('google/siglip-base-patch16-224', False),
        ('somebody/vit-base-patch16-224-finetuned', False),
    ],
)
def test_google_trained(hub_id, expected):
    assert google_files.google_trained(hub_id) is expected
