"""The last layer of a network."""

import pytest
import torch
from torch import nn

from crossd import InputError
from crossd.conversion import heads


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("classes", [2, 4])
def test_other_classes_lie_along_the_axis_of_outputs(kind: type[nn.Conv2d], classes: int) -> None:
    last = kind(4, 3, 2, 2)
    net, x = nn.Sequential(last), torch.randn(2, 4, 8, 8)
    heads.keep_classes(net, 3, slice(1, 3))
    kept = net(x)
    assert kept.shape[1] == 2
    heads.new_classifier(net, 2, classes)
    assert net(x).shape == (2, classes, *kept.shape[2:])
    assert heads.classifier(net, classes) is last


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_classes_that_are_kept_answer_as_before(kind: type[nn.Conv2d]) -> None:
    net, x = nn.Sequential(kind(4, 3, 2, 2)), torch.randn(2, 4, 8, 8)
    before = net(x)
    heads.keep_classes(net, 3, slice(1, 3))
    torch.testing.assert_close(net(x), before[:, 1:])


def test_transposed_layers_in_groups_keep_their_classes() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(4, 4, 2, 2, groups=2))
    with pytest.raises(InputError, match="its classes cannot change"):
        heads.new_classifier(net, 4, 2)


class Deep(nn.Module):
    """Heads of a deep supervision, of which the last answers, as those of nnU-Net's networks."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Conv2d(4, classes, 1), nn.Conv2d(2, classes, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.heads[-1](x)
        return answer


def test_all_heads_of_a_deep_supervision_change() -> None:
    """Else a file of such a network could not be loaded: it is built with the new classes."""
    net = Deep(3)
    heads.new_classifier(net, 3, 5)
    Deep(5).load_state_dict(net.state_dict())
    heads.keep_classes(net, 5, slice(1, 3))
    Deep(2).load_state_dict(net.state_dict())
    heads.freeze_convolutions(net, 2)
    assert all(parameter.requires_grad for parameter in net.parameters())
