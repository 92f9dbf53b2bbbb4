"""Running networks to write down what their modules do: nothing is changed by it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from crossd import InputError
from crossd.recording import examples, record


def no_leaf(module: nn.Module) -> bool:
    return False


def test_recording_leaves_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(True))
    net.eval()
    before = copy.deepcopy(net.state_dict()), [set(vars(m)) for m in net.modules()]
    state = torch.random.get_rng_state()
    calls, given = record(net, examples(net), no_leaf)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(net.state_dict(), before[0], rtol=0, atol=0)
    assert [set(vars(m)) for m in net.modules()] == before[1]
    assert set(calls) == set(net.modules()) and given[0].shape == (2, 3, 64, 64)
    whole = calls[net]
    assert [frame.args[0].shape[2:] for frame in whole] == [(64, 64), (96, 64), (64, 96)]
    assert [frame.module for frame in whole[0].inner] == list(net)
    # What a module was given and gave is kept as it was, whatever happens to it in place later.
    torch.testing.assert_close(calls[net[1]][0].output, calls[net[2]][0].args[0])
    assert (calls[net[2]][0].output < 0).any()
    # What one module gives and the next one takes is one copy, but not what was changed meanwhile.
    assert calls[net[0]][0].output is calls[net[1]][0].args[0]
    relu = calls[net[3]][0]
    assert relu.args[0] is not relu.output and (relu.args[0] < 0).any() and (relu.output >= 0).all()


def test_examples_fit_the_first_layer() -> None:
    assert examples(nn.Sequential(nn.Linear(2, 2), nn.Conv2d(5, 1, 1)))[0][0].shape[1] == 5
    assert examples(nn.BatchNorm2d(7))[0][0].shape[1] == 7
    assert examples(nn.ReLU())[0][0].shape[1] == 3
    assert examples(nn.Conv2d(2, 2, 1).double())[0][0].dtype == torch.float64
    image = torch.zeros(1, 1, 8, 8)
    assert examples(nn.ReLU(), image) == [(image,)]
    assert examples(nn.ReLU(), (image, 3)) == [(image, 3)]


def test_larger_images_are_tried_when_small_ones_do_not_fit() -> None:
    net = nn.Conv2d(1, 1, 80)
    assert record(net, examples(net), no_leaf)[1][0].shape[2] == 96


def test_networks_that_cannot_run_are_refused_in_a_line() -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("wants\nsomething else")

    with pytest.raises(InputError, match=r"cannot run .*wants something else.*example=") as caught:
        record(Picky(), examples(Picky()), no_leaf)
    assert "\n" not in str(caught.value)


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 8, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x).flatten(2).transpose(1, 2))
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


class Multihead(Attends):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0]


@pytest.mark.parametrize(("kind", "path"), [(Attends, "0"), (Multihead, "0.attention")])
@pytest.mark.parametrize("training", [True, False])
def test_attention_is_refused_by_the_module_that_attends(
    kind: type[nn.Module], path: str, training: bool
) -> None:
    net = nn.Sequential(kind()).train(training)
    with pytest.raises(InputError, match=rf"cannot convert layer '{path}' .*attends to patches"):
        record(net, examples(net), no_leaf)
