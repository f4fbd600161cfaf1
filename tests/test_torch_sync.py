"""SyncBatchNorm over processes that talk through gloo."""

import os
import subprocess
import sys

import pytest
from conftest import NAMES, ROOT, once
from torch_tools import fat, torch

pytestmark = [once, pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]
needs_gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no gloo",
)


@needs_gloo
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes(size, tmp_path):
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "FASTACT_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::UserWarning", str(ROOT / "tests" / "torch_ranks.py")]
    ranks = [
        subprocess.Popen([*command, str(rank), str(size), str(tmp_path / "store")],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for rank in range(size)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=240) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0] * size, "\n".join(
        err[-2000:] for _, err in said
    )
    assert f"cases passed on {size} ranks" in said[0][0]


def test_alone_it_is_a_batch_norm():
    module, twin = (
        fat.SyncBatchNorm(3, activation=NAMES[-1]),
        fat.BatchNorm1d(3, activation=NAMES[-1]),
    )
    x = torch.randn(5, 3)
    assert module(x).equal(twin(x))
    assert list(module.state_dict()) == list(twin.state_dict())
    assert isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    with pytest.raises(ValueError, match="at least 2D"):
        module(torch.randn(3))
    with pytest.raises(RuntimeError, match="not initialised"):
        fat.Communicator()


def test_conversion_keeps_what_there_is():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.ReLU())
    before = dict(model.named_parameters())
    calls = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    assert fat.SyncBatchNorm.convert_sync_batchnorm(model) is model
    assert type(model[1]) is fat.SyncBatchNorm
    assert all(p is before[key] for key, p in model.named_parameters())
    model(torch.randn(4, 4))
    assert calls == [1]
