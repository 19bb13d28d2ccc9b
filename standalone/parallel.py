"""A training in several processes: gradients added up through accelerate, weights sharded by PyTorch's fully_shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends.diffusers.video import DiffusersVideoBackend, DiffusersVideoModel
from .graph import GraphError

ENDED = ("train: another process of this run ended; the last checkpoint is kept, and the same command with --batch {} "
         "goes on from it, in fewer processes too.")  # fmt: skip


class Accelerated:
    """``diffusion.training.Together`` by accelerate, which knows the devices: nccl on GPUs, gloo on CPUs.

    Raises:
        GraphError: accelerate is missing, or the processes do not come together.
    """

    def __init__(self, batch: int = 0) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise GraphError("train: several processes need accelerate; pip install 'steadyedit[processes]'."
                             ) from error  # fmt: skip
        try:
            self._accelerator = Accelerator(cpu=not torch.cuda.is_available())
        except RuntimeError as error:
            raise GraphError(ENDED.format(batch)) from error
        self.rank, self.size = self._accelerator.process_index, self._accelerator.num_processes
        self.batch = batch or self.size

    @property
    def device(self) -> str:
        """Of this process."""
        return str(self._accelerator.device)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """See ``Together``: in one message."""
        device = self._accelerator.device
        flat = torch.cat([tensor.detach().flatten().to(device, torch.float32) for tensor in tensors])
        try:
            total = self._accelerator.reduce(flat, "sum")
        except RuntimeError as error:
            raise GraphError(ENDED.format(self.batch)) from error
        for tensor, part in zip(tensors, total.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(part.view_as(tensor))

    def first(self, value: Any) -> Any:
        """See ``Together``."""
        from accelerate.utils import broadcast_object_list

        try:
            return broadcast_object_list([value])[0]
        except RuntimeError as error:
            raise GraphError(ENDED.format(self.batch)) from error

    def end(self) -> None:
        """Leave the others."""
        self._accelerator.end_training()


class ShardedVideoBackend(DiffusersVideoBackend):
    """Each process holds its part of the network's weights, and has a block whole only while it computes with it.

    Args:
        model: whose network is sharded here, block by block; its fingerprint is taken before.
    """

    def __init__(self, model: DiffusersVideoModel) -> None:
        from torch.distributed.fsdp import fully_shard

        self._fingerprint = super().fingerprint(model)
        network = model.transformer
        for block in network.blocks:
            fully_shard(block)
        fully_shard(network)
        check_sharded(network)

    def fingerprint(self, model: DiffusersVideoModel) -> str:
        return self._fingerprint


def check_sharded(network: torch.nn.Module) -> None:
    """Raise RuntimeError unless every parameter is one part of a ``DTensor``."""
    from torch.distributed.tensor import DTensor

    whole = [name for name, parameter in network.named_parameters() if not isinstance(parameter, DTensor)]
    if whole:
        raise RuntimeError(f"train: {len(whole)} weights are not sharded, {whole[0]} for one.")
