"""The plain networks for images, and for volumes those of the same code."""

from torch import nn

from costs.cases import LAYERS, Case


def flat(case: Case) -> nn.Module:
    """Build the network for images of three channels: torchvision's, timm's, MONAI's or smp's."""
    name, classes = case.network, case.classes
    if name in LAYERS:
        channels, out, kernel, stride, _ = LAYERS[name]
        return nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    if name == "unet":
        from monai.networks.nets.basic_unet import BasicUNet

        return BasicUNet(2, 3, classes or 4, norm="batch")
    if name == "unet-resnet18":
        import segmentation_models_pytorch as smp

        net: nn.Module = smp.Unet("resnet18", encoder_weights=None, classes=classes or 4)
        return net
    if name == "vit-small":
        import timm

        size, number = case.shape[-1], classes or 1000
        return timm.create_model("vit_small_patch16_224", img_size=size, num_classes=number)
    import torchvision

    builder = getattr(torchvision.models, name.replace("-", "_"))
    net = builder(num_classes=classes or 1000)
    return net


def solid(case: Case) -> nn.Module:
    """Build the network for volumes of the same code: torch.nn's 3D layers in place of 2D ones."""
    net = flat(case)
    _with_solid_layers(net)
    return net


def _with_solid_layers(module: nn.Module) -> None:
    for name, child in module.named_children():
        made = _solid_layer(child)
        if made is None:
            _with_solid_layers(child)
        else:
            setattr(module, name, made)


def _solid_layer(layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, nn.Conv2d):
        sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        kernel, stride, padding, dilation = (int(own[0]) for own in sizes)
        channels, bias = (layer.in_channels, layer.out_channels), layer.bias is not None
        return nn.Conv3d(*channels, kernel, stride, padding, dilation, layer.groups, bias)
    if isinstance(layer, nn.BatchNorm2d):
        return nn.BatchNorm3d(layer.num_features, layer.eps, layer.momentum)
    if isinstance(layer, nn.MaxPool2d):
        return nn.MaxPool3d(layer.kernel_size, layer.stride, layer.padding)
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return nn.AdaptiveAvgPool3d(1)
    return None
