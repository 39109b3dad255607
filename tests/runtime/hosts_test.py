"""Runs on two hosts: what they share, what they agree on, and how they end."""

import json
import re
import signal
import sys
import time

import jax
import numpy as np
import processes
import pytest
import together
from conftest import make_photos
from jax._src import clusters

from vit_jax import checkpoint, main, train
from vit_jax.command_line.recipe import load_recipe
from vit_jax.runtime import hosts, sharding
from vit_jax.training.checkpoints import TrainCheckpoints

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')


def assert_close(one, other, atol=1e-6) -> None:
    """Compares two files of weights that were made on other numbers of hosts."""
    with checkpoint.open(one) as a, checkpoint.open(other) as b:
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_allclose(
                a[name], b[name], rtol=1e-5, atol=atol, err_msg=name
            )


def assert_close_records(run, other) -> None:
    found, expected = processes.records(run), processes.records(other)
    assert [set(record) for record in found] == [set(record) for record in expected]
    for a, b in zip(found, expected, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=name)


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hosts')
    # Fewer examples to evaluate on than devices: some hosts get none.
    photos = make_photos(folder / 'photos', train=8, test=1)
    return processes.write_recipe(
        folder / 'recipe.py', photos, **{'pp.val': 'test[:1]', 'pp.test': 'test[1:]'}
    )


@pytest.fixture(scope='module')
def on_one(recipe):
    """Returns a run in this process, on eight devices."""
    run = recipe.with_name('one')
    train.train_and_evaluate(load_recipe(str(recipe)), run)
    return run


@pytest.fixture(scope='module')
def on_two(recipe):
    """Returns the same run on two hosts with four devices each."""
    run = recipe.with_name('two')
    assert together.finish(recipe, run) == [0, 0], together.printed(run)
    return run


def test_two_hosts_train_what_one_does(on_one, on_two):
    assert_close(on_two / 'model.npz', on_one / 'model.npz')
    assert_close(on_two / 'model_best.npz', on_one / 'model_best.npz')
    assert_close_records(on_two, on_one)
    runs = [json.loads((run / 'run.json').read_text()) for run in (on_one, on_two)]
    results = [run['results'] for run in runs]
    assert [row['num_examples'] for row in results[1]] == [1, 2, 1, 2]
    for one, two in zip(*results, strict=True):
        assert one['accuracy'] == two['accuracy']
        assert one['loss'] == pytest.approx(two['loss'], rel=1e-4)


def test_one_host_writes_and_tells(on_one, on_two):
    names = [
        sorted(path.name.partition('tfevents')[0] for path in run.iterdir())
        for run in (on_one, on_two)
    ]
    assert names[0] == names[1]
    (start,) = json.loads((on_two / 'run.json').read_text())['starts']
    assert start['processes'] == 2
    assert len(start['devices']) == 8
    first, second = (together.output_of(on_two, host).read_text() for host in (0, 1))
    assert 'step 4/4' in first
    assert 'step ' not in second


SLOW = pytest.mark.slow
# Steps that take long enough for a signal to come in between.
LONG = (
    *('--config.total_steps=40', '--config.eval_every=0'),
    '--config.checkpoint_every=5',
)


def wait_for_step(run, step: int) -> None:
    log = run / 'train.log'
    assert processes.wait_until(
        lambda: log.exists() and f'step {step}/' in log.read_text(), 120, every=0.01
    ), together.printed(run)


def saved(run) -> int:
    with TrainCheckpoints(run / 'checkpoints') as checkpoints:
        return checkpoints.latest_step()


@SLOW
@pytest.mark.parametrize('host', [0, 1])
def test_a_signal_on_any_host_stops_all_at_one_step_and_one_host_goes_on(
    recipe, tmp_path, host
):
    run, whole = tmp_path / 'run', tmp_path / 'whole'
    settings = (
        *('--config.total_steps=24', '--config.eval_every=10'),
        # In bfloat16, momentum makes much of differences in rounding.
        '--config.optim_dtype=float32',
    )
    with together.start(recipe, run, *settings) as hosts:
        wait_for_step(run, 4)
        hosts[host].send_signal(signal.SIGTERM)
        assert together.ended(hosts) == [143, 143], together.printed(run)
    stopped = re.findall(r'state (\d+) is saved', (run / 'train.log').read_text())
    assert stopped == [str(saved(run))]
    assert 4 <= saved(run) < 24
    for directory in (run, whole):  # eight devices of one host
        command = ['main', f'--config={recipe}', f'--workdir={directory}', *settings]
        assert main.main(command) == 0
    # Rounding, grown over 24 steps.
    assert_close(run / 'model.npz', whole / 'model.npz', atol=1e-5)
    assert_close_records(run, whole)
    starts = json.loads((run / 'run.json').read_text())['starts']
    assert [start['processes'] for start in starts] == [2, 1]


@SLOW
def test_two_hosts_go_on_where_one_has_stopped_with_another_sharding(recipe, tmp_path):
    run, whole = tmp_path / 'run', tmp_path / 'whole'
    settings = '--config.total_steps=24', '--config.optim_dtype=float32'
    with processes.start(recipe, run, *settings) as process:
        wait_for_step(run, 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert 2 <= saved(run) < 24
    codes = together.finish(recipe, run, *settings, '--config.sharding.fsdp=8')
    assert codes == [0, 0], together.printed(run)
    assert processes.finish(recipe, whole, *settings) == 0
    assert_close(run / 'model.npz', whole / 'model.npz', atol=1e-5)
    assert_close_records(run, whole)


@SLOW
def test_an_image_that_one_host_cannot_read_ends_all(recipe, tmp_path):
    photos = make_photos(tmp_path / 'photos', train=8, test=5)
    (photos / 'train' / 'cat' / '3.png').write_bytes(b'no image')
    run, begin = tmp_path / 'run', time.monotonic()
    codes = together.finish(recipe, run, f'--config.dataset={photos}')
    assert 2 in codes, together.printed(run)
    assert 0 not in codes
    assert time.monotonic() - begin < 60
    assert '3.png' in together.output_of(run, codes.index(2)).read_text()


@SLOW
@pytest.mark.parametrize(
    'settings',
    [
        ['--config.sharding.fsdp=8', '--config.scan_layers=True'],
        ['--config.sharding.fsdp=2', '--config.few_shot.every=2'],
        ['--config.sharding.fsdp=8', '--config.few_shot.every=2'],
        ['--config.show_images=5', '--config.num_workers=1'],
        ['--config.accum_steps=2', '--config.batch=16'],
    ],
)
def test_what_a_run_can_have_on_two_hosts(recipe, tmp_path, settings):
    one, two = tmp_path / 'one', tmp_path / 'two'
    command = ['main', f'--config={recipe}', f'--workdir={one}', *settings]
    assert main.main(command) == 0
    assert together.finish(recipe, two, *settings) == [0, 0], together.printed(two)
    assert_close(two / 'model.npz', one / 'model.npz')
    assert_close_records(two, one)


@SLOW
@pytest.mark.parametrize('end', [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize('host', [0, 1])
def test_a_lost_host_ends_the_others_and_the_job_can_be_started_again(
    recipe, tmp_path, host, end
):
    run = tmp_path / 'run'
    with together.start(recipe, run, *LONG, '--heartbeat_timeout=10') as hosts:
        wait_for_step(run, 8)
        # Checkpoints are written beside the steps; whole ones are named by a number.
        assert processes.wait_until(
            lambda: any(x.name.isdecimal() for x in (run / 'checkpoints').iterdir()), 60
        )
        hosts[host].send_signal(end)
        begin = time.monotonic()
        code = hosts[1 - host].wait(timeout=60)
        print(f'{time.monotonic() - begin:.1f} s')
        assert code not in (0, 143), together.printed(run)
        # The time without a sign of life, and some to notice it.
        assert time.monotonic() - begin < 10 + 15
        hosts[host].kill()
        hosts[host].wait()
    before = saved(run)
    assert before >= 5
    assert not (run / 'model.npz').exists()
    assert together.finish(recipe, run, *LONG) == [0, 0], together.printed(run)
    log = (run / 'train.log').read_text()
    assert f'from step {before} of this run' in log
    assert processes.records(run)[-1]['step'] == 40


def refused(recipe, run, *arguments, codes=(2, 2), **how) -> list[str]:
    """Runs on two hosts that cannot; returns what each has printed."""
    begin = time.monotonic()
    found = together.finish(recipe, run, *arguments, **how)
    assert found == list(codes), together.printed(run)
    assert time.monotonic() - begin < 60
    return [together.output_of(run, host).read_text() for host in (0, 1)]


@SLOW
@pytest.mark.parametrize(
    ('second', 'code', 'parts'),
    [
        (
            '--config.base_lr=0.5', None,
            ['disagree', 'config.base_lr: 0.03 on host 0, 0.5 on host 1'],
        ),
        (
            '--config.checkpoint_every=9', None,
            ['config.checkpoint_every: 2 on host 0, 9 on host 1'],
        ),
        (
            None, "from vit_jax.runtime import hosts; hosts.code = lambda: 'another'",
            ['the code: ', "'another' on host 1"],
        ),
        ('--workdir={other}', None, ['file system that all hosts share']),
        ('--config.dataset={data}', None, ['fingerprint of train examples']),
        ('--config.dataset=/nowhere/photos', None, ['/nowhere/photos']),
    ],
)  # fmt: skip
def test_hosts_that_disagree_say_so_at_the_start(recipe, tmp_path, second, code, parts):
    data = make_photos(tmp_path / 'data', train=9, test=1)
    second = [] if second is None else [second.format(other=tmp_path / 'x', data=data)]
    outputs = refused(recipe, tmp_path / 'run', each=((), second), code=(None, code))
    for output in outputs:
        assert 'Traceback' not in output
        for part in parts:
            assert part in output[output.index('vit_jax: ') :]
    # Which of them is told where only one has failed.
    if 'nowhere' in str(second):
        assert 'Host 1 failed' in outputs[0]
        assert 'Host 1 failed' not in outputs[1]
    assert not (tmp_path / 'run' / 'config.json').exists()


@SLOW
def test_an_error_of_all_hosts_is_told_by_all(recipe, tmp_path):
    for output in refused(recipe, tmp_path / 'run', '--config.batch=12'):
        assert output.count('multiple of 8') == 1
        assert 'Traceback' not in output


@pytest.mark.parametrize('host', [0, pytest.param(1, marks=SLOW)])
def test_hosts_that_do_not_find_each_other(recipe, tmp_path, host):
    address = f'127.0.0.1:{together.free_port()}'
    flags = [
        *(f'--coordinator_address={address}', '--num_processes=2'),
        *(f'--process_id={host}', '--coordinator_timeout=3'),
    ]
    run = tmp_path / 'run'
    assert processes.finish(recipe, run, *flags) == 1, processes.printed(run)
    (line,) = (s for s in processes.printed(run).splitlines() if 'vit_jax: ' in s)
    assert f'did not come together at {address} within 3 seconds' in line
    assert ('Nobody answers' if host else 'not all of the others have come') in line
    assert not run.exists()


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        (['num_processes=2'], ['--coordinator_address and --process_id missing']),
        (
            ['coordinator_address=10.0.0.1', 'num_processes=2', 'process_id=1'],
            ['--coordinator_address=10.0.0.1', 'host:port'],
        ),
        (
            ['coordinator_address=a:1', 'num_processes=2', 'process_id=2'],
            ['--process_id=2', '--num_processes=2'],
        ),
    ],
)
def test_flags_that_do_not_fit(recipe, tmp_path, capsys, flags, parts):
    command = ['main', f'--config={recipe}', f'--workdir={tmp_path / "run"}']
    assert main.main([*command, *(f'--{flag}' for flag in flags)]) == 2
    error = capsys.readouterr().err
    for part in parts:
        assert part in error


SLURM = {
    'SLURM_JOB_ID': '7',
    'SLURM_PROCID': '1',
    'SLURM_LOCALID': '1',
    'SLURM_NTASKS': '2',
    'SLURM_STEP_NODELIST': 'node[1-2]',
}
OMPI = {'OMPI_MCA_orte_hnp_uri': '1.0;tcp://10.0.0.1:2', 'OMPI_COMM_WORLD_SIZE': '2'}


@pytest.mark.parametrize(
    ('variables', 'launcher'),
    [
        (SLURM, 'Slurm'),
        ({**SLURM, 'SLURM_NTASKS': '1'}, None),
        (OMPI, 'Open MPI'),
        ({**OMPI, 'OMPI_COMM_WORLD_SIZE': '1'}, None),
        ({}, None),
    ],
)
def test_launchers_are_known_by_their_environment(monkeypatch, variables, launcher):
    for name in {**SLURM, **OMPI}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr(jax.distributed, 'initialize', lambda **_: asked.append(1))
    monkeypatch.setattr(jax.config, 'update', lambda *_: None)
    hosts.connect()
    assert bool(asked) == (launcher is not None)
    assert launcher is None or launcher in hosts._launcher()


def test_a_tpu_without_others_is_one_host(monkeypatch):
    def nobody(**_):
        raise ValueError('coordinator_address should be defined.')

    for name in {**SLURM, **OMPI}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hosts.importlib.util, 'find_spec', lambda name: name)
    monkeypatch.setattr(hosts.glob, 'glob', lambda pattern: ['/dev/accel0'])
    monkeypatch.setattr(jax.config, 'update', lambda *_: None)
    monkeypatch.setattr(jax.distributed, 'initialize', nobody)
    assert 'TPU' in hosts._launcher()
    hosts.connect()
    monkeypatch.setenv('SLURM_PROCID', '0')
    monkeypatch.setenv('SLURM_STEP_NODELIST', 'a,b')
    monkeypatch.setenv('SLURM_NTASKS', '2')
    with pytest.raises(ValueError, match='coordinator_address'):
        hosts.connect()


@pytest.mark.parametrize(
    ('variables', 'devices'),
    [
        ({}, None),
        ({'SLURM_STEP_NUM_NODES': '1', 'SLURM_GPUS_ON_NODE': '8'}, None),
        ({'SLURM_STEP_NUM_NODES': '2', 'SLURM_GPUS_ON_NODE': '4'}, [0, 1, 2, 3]),
        ({'CUDA_VISIBLE_DEVICES': '3'}, [0]),
        ({'CUDA_VISIBLE_DEVICES': '3', 'JAX_LOCAL_DEVICE_IDS': '0'}, None),
        ({'CUDA_VISIBLE_DEVICES': '0,1', 'SLURM_STEP_NUM_NODES': '1'}, None),
    ],
)
def test_the_devices_of_a_task_of_slurm(monkeypatch, variables, devices):
    for name in ('CUDA_VISIBLE_DEVICES', 'JAX_LOCAL_DEVICE_IDS'):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**SLURM, **variables}.items():
        monkeypatch.setenv(name, value)
    assert hosts._own_devices() == devices


def test_one_host_agrees_with_itself():
    assert hosts.gather('å') == ['å']
    hosts.agree({'a': 1})
    assert hosts.first_host_first(lambda: 3) == 3
    with pytest.raises(KeyError), hosts.raise_on_all():
        raise KeyError('x')
    assert hosts.SharedSignal(sharding.make_mesh())(3, 15) == 15
    assert re.fullmatch('[0-9a-f]{64}', hosts.code())
    hosts.end(1)  # which it does not, alone


def test_jax_itself_finds_hosts_under_slurm(monkeypatch):
    """What `connect` leaves to it: the names of its variables are those we look for."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    cluster = clusters.SlurmCluster
    assert cluster.is_env_present()
    address = cluster.get_coordinator_address(1, None)
    assert address.startswith('node1:')
    assert (cluster.get_process_count(), cluster.get_process_id()) == (2, 1)


def test_arrays_are_made_whole():
    mesh = sharding.make_mesh(4)
    split = jax.device_put(np.arange(8.0), sharding.state_sharding(mesh, np.zeros(8)))
    assert not split.is_fully_replicated
    found = sharding.replicate(split)
    assert found.is_fully_replicated
    np.testing.assert_array_equal(found, split)
    assert sharding.replicate(found) is found
    tree = {'a': split}
    assert sharding.on_this_host(tree, sharding.on_one_host(mesh)) is tree
