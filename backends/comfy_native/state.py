"""What is attached to a MODEL: one immutable value that rides in its transformer options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...methods.attachment import check_rivals

if TYPE_CHECKING:
    from torch import nn

    from ...methods.attachment import Attachment

KEY = "steadyedit"
#: The same for each device beside the first, where the host computes on several; and the device of a call, its name.
DEVICES, DEVICE = "steadyedit_devices", "multigpu_thread_device"


@dataclass(frozen=True)
class Attached:
    """The attachments of one MODEL, in order.

    Args:
        attachments: methods, in the order in which they were attached.
        training: a clone is open for training: large blocks are computed again in backward.
        recompute_all: in training, compute every block again.
        call: in training, ``branches`` of the call under way, for norms that stay replaced between calls.
        parts: in training, what ``walked`` found: one network is walked once, not at every step.
    """

    attachments: tuple[Attachment, ...] = ()
    training: bool = False
    recompute_all: bool = False
    call: dict[str, int] = field(default_factory=dict, compare=False)
    parts: list[Any] = field(default_factory=list, compare=False)

    def __deepcopy__(self, memo: dict) -> Attached:
        # The host deep-copies the options of a MODEL on every clone; this value never changes.
        return self

    def with_attachment(self, attachment: Attachment) -> Attached:
        """One more; an earlier one of the same method gives way.

        Raises:
            ValueError: see ``check_rivals``.
        """
        kept = tuple(a for a in self.attachments if a.method != attachment.method)
        check_rivals(attachment, kept)
        return replace(self, attachments=(*kept, attachment))

    def walked(self, walk: Callable[[], Any]) -> Any:
        """The first result of ``walk``, kept for as long as the training is open."""
        if not self.parts:
            self.parts.append(walk())
        return self.parts[0]

    def modules(self, path: str) -> list[nn.Module]:
        """Modules that run after the feed-forward of one block, in order."""
        key = path.replace(".", "/")
        return [a.modules[key] for a in self.attachments if a.modules is not None and key in a.modules]

    def outputs(self, path: str) -> dict[str, list[nn.Module]]:
        """Modules on the output of one block's submodules (attn1, attn2, ff), in order."""
        found: dict[str, list[nn.Module]] = {}
        for attachment in self.attachments:
            for key, module in (attachment.outputs or {}).items():
                block, _, name = key.replace("/", ".").rpartition(".")
                if block == path and works(module):
                    found.setdefault(name, []).append(module)
        return found

    @property
    def inputs(self) -> dict[str, list[nn.Module]]:
        """Modules on what goes into a transformer, in order, by its path."""
        found: dict[str, list[nn.Module]] = {}
        for attachment in self.attachments:
            for key, module in (attachment.inputs or {}).items():
                found.setdefault(key.replace("/", "."), []).append(module)
        return found

    @property
    def norms(self) -> dict[str, nn.Module]:
        """The module that answers for each replaced norm layer, by the layer's path."""
        return {
            key.replace("/", "."): module
            for a in self.attachments if a.norms is not None for key, module in a.norms.items() if works(module)
        }  # fmt: skip

    @property
    def touched(self) -> frozenset[str]:
        """Paths of the blocks whose forward is extended."""
        after = {key for a in self.attachments if a.modules is not None for key in a.modules}
        inside = {key.rpartition("/")[0] for a in self.attachments if a.outputs is not None for key in a.outputs}
        return frozenset(key.replace("/", ".") for key in after | inside)


def works(module: nn.Module) -> bool:
    """Whether a module does anything: at strength 0 the layer's own forward answers, bit for bit."""
    return getattr(module, "strength", 1.0) != 0


def attached_to(options: Mapping[str, Any]) -> Attached:
    """The value in a dict of transformer options, for the device of the call; nothing attached where there is none."""
    here = options.get(DEVICES, {}).get(options.get(DEVICE))
    return here or options.get(KEY, Attached())


def without_mixing(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of the transformer options says what is attached, with only what leaves frames apart."""
    def apart(state: Attached) -> Attached:
        return replace(state, attachments=tuple(a for a in state.attachments if not a.mixes_frames))

    return {KEY: apart(options.get(KEY, Attached())),
            DEVICES: {device: apart(state) for device, state in options.get(DEVICES, {}).items()}}
