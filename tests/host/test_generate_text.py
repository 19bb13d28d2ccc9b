"""ComfyUI's own Generate Text as what describes clips: what it writes in a host of its own is what it writes here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import HOST
from steadyedit.standalone.generate_text import found_text_encoder, generating

pytestmark = pytest.mark.once
WORDS = 'These are frames of one video. Answer with JSON only, such as {"caption": "one sentence"}.'
PACK = """import sys
sys.path.insert(0, {folder!r})
from narrow_qwen3_vl import narrow
narrow()
NODE_CLASS_MAPPINGS = {{}}
"""


def test_a_text_encoder_of_the_host_is_shown_every_frame_in_order(tmp_path, monkeypatch):
    pytest.importorskip("comfy.text_encoders.qwen3vl", reason="this ComfyUI is older than Qwen3-VL")
    import comfy.sd
    from comfy_extras.nodes_textgen import TextGenerate
    from narrow_qwen3_vl import narrow, write

    narrow(monkeypatch.setitem)
    file = tmp_path / "narrow.safetensors"
    write(file)
    assert found_text_encoder(str(file), HOST / "models") == file
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "__init__.py").write_text(PACK.format(folder=str(Path(__file__).parent)), encoding="utf-8")

    frames = torch.randint(0, 256, (8, 64, 64, 3), generator=torch.Generator().manual_seed(3)) / 255
    clip = comfy.sd.load_clip([str(file)])

    def here(pictures):
        written = TextGenerate.execute(clip, WORDS, 12, {"sampling_mode": "off"}, image=pictures).args[0]
        return " ".join(written.split())

    expected = here(frames)
    assert expected and expected != here(frames.flip(0)) and expected != here(frames[:7])
    with generating(HOST, file, [pack]) as model:
        assert model.chats and model.ask(frames, WORDS, 12) == expected
        assert model.ask(frames.flip(0), WORDS, 12) == here(frames.flip(0))
        assert list(model.host.input.glob("*.png")) == []
