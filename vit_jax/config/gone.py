"""Keys that there are no more, of the original and of older versions."""

# What replaces them.
GONE = {
    'shuffle_buffer': 'not needed: every epoch is shuffled over all examples',
    'model_type': 'not needed: config.model says which network it is',
    'model_or_filename': 'use --config=augreg.py:NAME, or --config.pretrained=FILE',
    'pp.scaled_decoding': 'use --config.cache.where=memory '
    '--config.cache.shrink=SIDE, which is faster',
    'cache.on_device': 'use --config.cache.where=memory, which is faster',
    'cache.device_mb': 'not needed: the devices hold no images but the next batches',
}
# Those of them that decided the numbers, and the value that gives today's.
GONE_WHAT = {'pp.scaled_decoding': False, 'cache.on_device': False}
