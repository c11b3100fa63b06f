"""FedLP: which layers are sent, what the server makes of them, and what they cost."""

import pytest
import torch

from alone import nowhere
from bed import Bed, tiny
from fedx_core.base import seeding
from fedx_core.base.errors import ConfigError
from fedx_core.base.state import Payload
from fedx_core.methods.fedlp import Method
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store
from fedx_core.wire.frame import HEADER
from fedx_core.wire.messages import ServerState, Update

NOWHERE = nowhere()


def sent(first: float | None, second: float | None, examples: int) -> Update:
    """An update of two layers, None where a layer stays away."""
    payload: Payload = {
        "dropped/a": torch.tensor([first is None]),
        "dropped/b": torch.tensor([second is None]),
        "model/a.weight": torch.full((2,), first or 0.0, dtype=torch.float64),
        "model/a.bias": torch.full((1,), first or 0.0),
        "model/b.count": torch.tensor(int(second or 0)),
    }
    return Update(client="c", payload=payload, examples=examples)


def test_a_layer_is_the_plain_mean_of_those_that_sent_it() -> None:
    server = ServerState(
        round_index=4,
        model={
            "a.weight": torch.full((2,), 7.0, dtype=torch.float64),
            "a.bias": torch.full((1,), 7.0),
            "b.count": torch.tensor(3),
        },
    )
    updates = [sent(1.0, None, 100), sent(None, 5.0, 1), sent(4.0, 6.0, 1)]
    after = Method().settle_each(NOWHERE, server, updates)
    assert after.model["a.weight"].tolist() == [2.5, 2.5]
    assert after.model["a.bias"].tolist() == [2.5]
    assert after.model["b.count"].item() == 5
    assert after.round_index == 5
    nobody = Method().settle_each(NOWHERE, server, [sent(None, 5.0, 1), sent(None, 2.0, 1)])
    assert nobody.model["a.weight"].tolist() == [7.0, 7.0]
    assert updates[0].payload["model/a.weight"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("code_compat", [False, True])
def test_what_travels_is_the_layers_that_were_drawn_and_a_byte_a_layer(
    code_compat: bool, bed: Bed
) -> None:
    setting = bed.setting()
    settings = tiny(
        method__name="fedlp",
        method__send_share=0.4,
        method__code_compat=code_compat,
        codec__name="masked",
        federation__rounds=2,
    )
    reports = list(federate(settings, setting, InProcess(1)))
    model = final_model(open_store(setting.place.store))
    whole = {n: v.numel() * v.element_size() for n, v in model.items()}
    layers = list(dict.fromkeys(n if code_compat else n.rsplit(".", 1)[0] for n in whole))
    sizes = set()
    for report in reports:
        for client, traffic in report.traffic.items():
            seed = seeding.derive(1, report.round_index, client, "train")
            random = seeding.numpy_generator(seeding.derive(seed, "layers"))
            drawn = {layer for layer in layers if random.random() < 0.4}
            body = sum(
                size
                for name, size in whole.items()
                if (name if code_compat else name.rsplit(".", 1)[0]) in drawn
            )
            assert traffic.uplink == HEADER.size + len(layers) + body
            assert traffic.downlink == HEADER.size + sum(whole.values())
            sizes.add(traffic.uplink)
        assert 0 < report.method_metrics["client_sent_share"] < 1
    assert len(sizes) > 3
    parameters = sum(
        v.numel() for n, v in model.items() if "running" not in n and "num_batches" not in n
    )
    assert reports[0].paper_bytes == 3 * 4 * (parameters + round(0.4 * parameters))


def test_a_share_that_can_not_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="send_share must lie"):
        Method(send_share=0)
