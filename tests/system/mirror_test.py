"""Tests mirror the sources: vit_jax/a/b.py has tests/a/b_test.py, or is named here."""

import declared

SOURCES, TESTS = declared.ROOT / 'vit_jax', declared.ROOT / 'tests'

# Sources without a test of their own, and which one looks at them: through the command
# that people type, or together with what they are a part of.
ELSEWHERE = {
    '__main__.py': 'command_line/terminal_test.py',
    'checkpoint/conversion.py': 'convert_test.py',
    'checkpoint/ports/relatives.py': 'checkpoint/ports/repository_test.py',
    'checkpoint/ports/port.py': 'checkpoint/ports/translate_test.py',
    'checkpoint/ports/rows.py': 'checkpoint/ports/translate_test.py',
    'checkpoint/readers.py': 'checkpoint/model_test.py',
    'command_line/recipe.py': 'main_test.py',
    'compare/__main__.py': 'compare/pairs_test.py',
    'config/defaults.py': 'config/keys_test.py',
    'config/gone.py': 'training/run_directory_test.py',
    'config/key.py': 'config/rules_test.py',
    'configs.py': 'system/install_test.py',
    'data/datasets/packed_strings.py': 'data/datasets/listing_test.py',
    'data/decoder.py': 'data/cache_test.py',
    'data/draws.py': 'data/pipeline_test.py',
    'data/examples.py': 'data/pipeline_test.py',
    'data/open.py': 'data/sources_test.py',
    'evaluation/accuracy.py': 'evaluate_test.py',
    'evaluation/few_shot.py': 'few_shot_test.py',
    'evaluation/tables.py': 'evaluate_test.py',
    'export/__main__.py': 'export/artifact_test.py',
    'export/onnx.py': 'export/artifact_test.py',
    'export/options.py': 'export/artifact_test.py',
    'export/preprocessing.py': 'export/artifact_test.py',
    'export/stablehlo.py': 'export/artifact_test.py',
    'files/atomic.py': 'checkpoint/formats/npz_test.py',
    'files/run_record.py': 'training/run_directory_test.py',
    'forecast/answer.py': 'forecast/forecast_test.py',
    'forecast/measure.py': 'forecast/forecast_test.py',
    'forecast/program.py': 'forecast/forecast_test.py',
    'inference/answers.py': 'predict_test.py',
    'inference/features.py': 'features_test.py',
    'inference/named.py': 'features_test.py',
    'inference/predictor.py': 'predict_test.py',
    'models/arrays.py': 'training/state_test.py',
    'models/__main__.py': 'system/readme_test.py',
    'models/cudnn.py': 'models/attention_test.py',
    'models/family.py': 'models/families_test.py',
    'models/layers.py': 'models/vit_test.py',
    'models/parameters.py': 'models/zoo/registry_test.py',
    'models/products.py': 'models/vit_test.py',
    'models/shape_table.py': 'summary_test.py',
    'models/zoo/google.py': 'models/zoo/registry_test.py',
    'optim/groups.py': 'system/freezing_test.py',
    'optim/schedules.py': 'optim/optimizer_test.py',
    'report/__main__.py': 'report/contents_test.py',
    'runtime/extras.py': 'features_test.py',
    'tasks/task.py': 'tasks/classes_test.py',
    'training/input.py': 'training/plan_test.py',
    'training/loop.py': 'training/step_test.py',
    'training/out_of_memory.py': 'runtime/memory_test.py',
    'training/pictures.py': 'train_test.py',
    'training/reporter.py': 'train_test.py',
    'training/stopping.py': 'train_test.py',
    'visualize/__main__.py': 'visualize/command_test.py',
    'visualize/drawing.py': 'visualize/figures_test.py',
    'visualize/image_grid.py': 'visualize/figures_test.py',
}
# Tests of no single source, outside tests/system.
OF_SEVERAL = {'visualize/command_test.py'}


def test_every_source_has_its_test():
    sources = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob('*.py')
        if path.name != '__init__.py'
    }
    tests = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob('*_test.py')}
    mirrored = {name.removesuffix('.py') + '_test.py': name for name in sources}
    without = sources - {mirrored[test] for test in tests & mirrored.keys()}
    assert without == set(ELSEWHERE)
    assert set(ELSEWHERE.values()) <= tests
    others = {
        test
        for test in tests - mirrored.keys()
        if not test.startswith(('system/', 'scripts/'))
    }
    assert others == OF_SEVERAL
