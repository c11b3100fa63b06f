import pytest

from fedx_core.base.errors import ConfigError
from fedx_core.models import catalogue
from fedx_core.relevance.magnitude import Criterion

ENTRY = catalogue.entry("resnet6")


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_magnitude_is_the_norm_of_each_row(norm: str) -> None:
    model = catalogue.build("resnet6", 3, 4, seed=1)
    model.bn1.weight.data.fill_(100)  # BatchNorm's scale must not count
    graph = catalogue.entry("resnet6").graph(model)
    criterion = Criterion(norm=norm)
    found = criterion.score(model, graph, ENTRY, None, seed=0, batch_size=1)
    for unit in (0, 7, 63):
        row = model.conv1.weight[unit].flatten().tolist()
        size = sum(abs(w) for w in row) if norm == "l1" else sum(w * w for w in row) ** 0.5
        assert float(found["conv1"][unit]) == pytest.approx(size, rel=1e-6)


def test_magnitude_of_a_head_covers_its_query_key_and_value_rows() -> None:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=8, patch_size=4, in_chans=3, num_classes=4, embed_dim=8, depth=1, num_heads=2
    )
    graph = catalogue.entry("vit_base_patch16_224").graph(model, heads=True)
    found = Criterion().score(model, graph, ENTRY, None, seed=0, batch_size=1)
    rows = model.blocks[0].attn.qkv.weight.detach().reshape(3, 2, 4, 8)  # q k v, heads, width, in
    for head in range(2):
        assert float(found["blocks.0.attn.qkv"][head]) == pytest.approx(
            float(rows[:, head].square().sum().sqrt()), rel=1e-6
        )


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="norm is 'l3'; choose one of l1, l2"):
        Criterion(norm="l3")
