"""What fastact.torch's SyncBatchNorm has to do, on one rank of several: test_torch_sync.py runs

python tests/torch_ranks.py RANK SIZE STORE
"""

import copy
import os
import sys
import traceback

import collective
import numpy as np
import pytest
import torch
import torch.distributed as dist

import fastact as fa
import fastact.torch as fat

LEARNED = next(name for name, f in fa.activations.items() if f.learned)
ACTIVATIONS = (None, list(fa.activations)[4], LEARNED)
CLOSE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.bfloat16: {"rtol": 1e-2, "atol": 1e-2},
}  # fmt: skip


def everywhere(tensor):
    """Whether all ranks hold the same bits."""
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return all(part.equal(parts[0]) for part in parts)


def summed(tensor):
    total = tensor.detach().double()
    dist.all_reduce(total)
    return total


def parameters(name):
    return {"weight": torch.tensor([0.1, -0.2, 0.3, 0.4])} if name == LEARNED else None


def equals_one_process(rank, size):
    """Unequal shards, an empty one too: forward, gradient and running statistics are those of the
    whole batch; gradients of parameters add up to its."""
    for dtype, form in ((torch.float32, torch.channels_last), (torch.float64, None),
                        (torch.bfloat16, None)):  # fmt: skip
        for name in ACTIVATIONS:
            for kind in collective.SHARDS:
                torch.manual_seed(1)
                x, dy = (torch.randn(11, 4, 3, 5) + 0.5, torch.randn(11, 4, 3, 5))
                x, dy = x.to(dtype), dy.to(dtype)
                own = {"activation": name, "activation_params": parameters(name)}
                whole = fat.BatchNorm2d(4, **own)
                torch.nn.init.uniform_(whole.weight, 0.5, 1.5)
                mine = fat.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(whole))
                whole_x = x.clone().requires_grad_()
                want = whole(whole_x)
                want.backward(dy)
                part = collective.shard(x, rank, size, kind).clone()
                part = part.to(memory_format=form) if form else part
                part.requires_grad_()
                got = mine(part)
                assert got.stride() == part.stride() or part.numel() == 0
                got.backward(collective.shard(dy, rank, size, kind))
                close = CLOSE[dtype]
                torch.testing.assert_close(got, collective.shard(want, rank, size, kind), **close)
                torch.testing.assert_close(
                    part.grad, collective.shard(whole_x.grad, rank, size, kind), **close
                )
                for p, q in zip(mine.parameters(), whole.parameters(), strict=True):
                    torch.testing.assert_close(
                        summed(p.grad), q.grad.double(), rtol=1e-4, atol=1e-3 if name else 1e-4
                    )
                for p, q in zip(mine.buffers(), whole.buffers(), strict=True):
                    torch.testing.assert_close(p, q)
                    assert everywhere(p)


def model():
    torch.manual_seed(2)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.Conv2d(8, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.SiLU(),
        torch.nn.Flatten(), torch.nn.Linear(4 * 16, 1),
    ).double()  # fmt: skip


def trains_with_data_parallel(rank, size):
    """Fused, synchronised, under DistributedDataParallel: as one process with all the data."""
    alone, mine = model(), model()
    assert len(fat.fuse(mine).replaced) == 2
    fat.SyncBatchNorm.convert_sync_batchnorm(mine)
    parallel = torch.nn.parallel.DistributedDataParallel(mine)
    optimizers = [torch.optim.SGD(m.parameters(), 0.05, momentum=0.9) for m in (alone, mine)]
    for step in range(3):
        torch.manual_seed(step)
        x = torch.randn(2 * size, 3, 8, 8, dtype=torch.float64)
        for m, data, optimizer in zip(
            (alone, parallel), (x, x[rank::size]), optimizers, strict=True
        ):
            optimizer.zero_grad()
            m(data).square().mean().backward()
            optimizer.step()
    for (key, p), q in zip(mine.state_dict().items(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10, msg=key)
        assert everywhere(p)


def errors_reach_everyone(rank, size):
    module = fat.SyncBatchNorm(4)
    before = copy.deepcopy(module.state_dict())
    good = torch.randn(3, 4)
    cases = [(torch.ones(3, 4, dtype=torch.int64), "dtype"), (torch.randn(3, 5), "channels|shape"),
             (good.double(), "the dtype of x")]  # fmt: skip
    for guilty in range(size):
        for bad, match in cases:
            with pytest.raises((TypeError, ValueError), match=match):
                module(bad if rank == guilty else good)
    with pytest.raises(ValueError, match="1 value per channel on all processes"):
        module(good[:1] if rank == 0 else good[:0])
    for key, value in before.items():
        assert module.state_dict()[key].equal(value)
    y = module(good.clone().requires_grad_())  # all are in step still
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(
            torch.autograd.grad(y.sum(), module.weight, create_graph=True)[0].sum(), module.weight
        )


def evaluation_asks_nobody(rank, size):
    module = fat.SyncBatchNorm(4, activation=ACTIVATIONS[1]).eval()
    if rank == 0:  # nobody answers
        x = torch.randn(3, 4)
        twin = fat.BatchNorm1d(4, activation=ACTIVATIONS[1]).eval()
        assert module(x).equal(twin(x))
    dist.barrier()
    group = dist.new_group([0])
    if rank == 0:
        fat.SyncBatchNorm(4, process_group=group)(torch.randn(3, 4))
    dist.barrier()


def one_node_when_compiled(rank, size):
    module = fat.SyncBatchNorm(4, activation=ACTIVATIONS[1])
    x = torch.randn(5 + rank, 4, requires_grad=True)
    want = copy.deepcopy(module)(x)
    seen = []

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    compiled = torch.compile(module, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x), want)
    assert seen.count("fastact.sync_batch_norm.default") == 1


def fastacts_own(rank, size):
    """`Communicator` is good for comm= of fastact on arrays."""
    comm = fat.Communicator()
    for case in (collective.equals_one_process, collective.the_layer,
                 collective.errors_reach_everyone):  # fmt: skip
        case(comm, rank, size)


CASES = [
    equals_one_process, trains_with_data_parallel, errors_reach_everyone, evaluation_asks_nobody,
    one_node_when_compiled, fastacts_own,
]  # fmt: skip


def main():
    rank, size, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(path, size), rank=rank, world_size=size)
    for case in CASES:
        case(rank, size)
    dist.barrier()
    if rank == 0:
        print(f"{len(CASES)} cases passed on {size} ranks")
    np.testing.assert_equal(dist.get_world_size(), size)
    dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # and not wait for the others
