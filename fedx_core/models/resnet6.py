"""ResNet6: the smallest network of the FedX paper, from torchvision's blocks.

A 7 x 7 stem, one basic block of 64 channels, one of 128, and a linear classifier. With 10 bands and
19 classes it has the 338,067 parameters (1.29 MiB) of the paper's Table I.
"""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class ResNet6(nn.Module):
    """Six weighted layers, named as torchvision names a ResNet's."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(64, 64))
        downsample = nn.Sequential(nn.Conv2d(64, 128, 1, 2, bias=False), nn.BatchNorm2d(128))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2, downsample))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(128, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map (batch, bands, height, width) to logits (batch, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]
