"""An adapter applied or merged here gives what PEFT gives, to the bit."""

import json
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from speech_rba.errors import UserError
from speech_rba.model.lora import Adapter, merge_lora


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


@pytest.fixture
def net_and_folder(tmp_path):
    torch.manual_seed(0)
    net = Net()
    model = get_peft_model(deepcopy(net), LoraConfig(r=3, lora_alpha=7, target_modules=["first", "second"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    model.save_pretrained(tmp_path)
    return net, tmp_path


@torch.no_grad()
def test_an_adapter_gives_what_peft_gives(net_and_folder):
    net, folder = net_and_folder
    x, plain = torch.randn(5, 8), net(torch.ones(5, 8))
    by_peft = PeftModel.from_pretrained(deepcopy(net), str(folder))(x)
    adapter = Adapter(net, folder)
    assert torch.equal(net(x), by_peft)
    with adapter.disabled():
        assert torch.equal(net(torch.ones(5, 8)), plain)
    assert torch.equal(net(x), by_peft)
    adapter.remove()
    assert torch.equal(net(torch.ones(5, 8)), plain)


@torch.no_grad()
def test_a_merged_adapter_has_the_weights_of_peft(net_and_folder):
    net, folder = net_and_folder
    merged = PeftModel.from_pretrained(deepcopy(net), str(folder)).merge_and_unload().state_dict()
    merge_lora(net, folder)
    assert merged.keys() == net.state_dict().keys()
    assert all(torch.equal(weight, merged[name]) for name, weight in net.state_dict().items())


def test_a_variant_of_lora_and_an_adapter_of_another_model_are_refused(net_and_folder):
    net, folder = net_and_folder
    net.second = nn.Linear(12, 5, bias=False)
    with pytest.raises(UserError, match="no such layer: second"):
        Adapter(net, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(UserError, match="no plain LoRA adapter"):
        merge_lora(Net(), folder)
