"""Weights and repositories of other libraries, made of the goldens."""

import json
import shutil

from conftest import GOLDEN

from vit_jax import models
from vit_jax.checkpoint import ModelCard
from vit_jax.checkpoint.formats import npz, safetensors
from vit_jax.checkpoint.weights import TreeWeights

HF = GOLDEN / 'hf_vit'
TIMM = GOLDEN / 'timm_vit.safetensors'


def golden_params(golden, name):
    """Returns the parameters of a golden by their names of today."""
    arrays = golden(f'{name}.npz')
    params = {k[7:]: x for k, x in arrays.items() if k.startswith('params/')}
    params = dict(zip(npz.translate(params), params.values(), strict=True))
    return {k: x.squeeze() if '/gn' in k or k[:3] == 'gn_' else x
            for k, x in params.items()}  # fmt: skip


def timm_arrays(**changes):
    """Returns the golden's arrays, changed; None removes one."""
    arrays = {k: safetensors.read(e) for k, e in safetensors.entries(TIMM).items()}
    arrays |= changes
    return {
        k: safetensors.Array(x.dtype, x.shape, lambda x=x: x)
        for k, x in arrays.items()
        if x is not None
    }


def golden_card(golden, name, **fields):
    """Returns a golden as weights, and a card of it."""
    config = json.loads((GOLDEN / f'{name}.json').read_text())
    known = set(models.get_config('ViT-B_16')) | set(models.get_config('Mixer-B_16'))
    known |= {'resnet'}
    config = {k: v for k, v in config.items() if k in known and v is not None}
    params = golden_params(golden, name)
    card = ModelCard(
        model=config | fields,
        num_classes=len(params['head/bias']),
        image_size=golden(f'{name}.npz')['inputs/images'].shape[1:3],
        class_names=[f'klasse {i} ä' for i in range(len(params['head/bias']))],
        mean=(120.0, 110.0, 100.0),
        std=60.0,
        source={'dtype': 'float32'},
    )
    return TreeWeights(params), card


def timm_repository(folder):
    """Makes a repository: the golden, and a config.json as on the hub.

    Returns a function that writes the config.json with changes.
    """
    folder.mkdir()
    shutil.copy(GOLDEN / 'timm_vit.safetensors', folder / 'model.safetensors')

    def write(**changes):
        config = {
            'architecture': 'vit_golden_patch16_64',
            'num_classes': 7,
            'global_pool': 'token',
            'model_args': {'num_heads': 3},
            'pretrained_cfg': {
                'tag': 'somebody',
                'input_size': [3, 64, 64],
                'crop_pct': 0.9,
                'mean': [0.485, 0.456, 0.406],
                'std': [0.229, 0.224, 0.225],
            },
        }
        config['pretrained_cfg'] |= changes.pop('pretrained_cfg', {})
        (folder / 'config.json').write_text(json.dumps(config | changes))
        return folder

    write()
    return write
