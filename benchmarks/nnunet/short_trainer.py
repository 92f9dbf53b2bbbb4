"""nnU-Net's own trainer, with as many steps as two cores have time for.

``nnUNetv2_train`` finds it where the environment variable ``nnUNet_extTrainer`` names this folder.
``CROSSD_NNUNET_EPOCHS`` and ``CROSSD_NNUNET_STEPS`` (an epoch) say how long it trains,
``CROSSD_NNUNET_SEED`` from which draws, and ``CROSSD_NNUNET_CURVE`` where its losses are written.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

CPU = torch.device("cpu")


class nnUNetTrainerShort(nnUNetTrainer):  # type: ignore[misc]  # it has no types
    """The trainer of nnU-Net, whose constructor repeats its arguments, as it asks for."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = CPU,
    ) -> None:
        seed = int(os.environ.get("CROSSD_NNUNET_SEED", "0"))
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002, what nnU-Net draws from
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = int(os.environ.get("CROSSD_NNUNET_EPOCHS", "1"))
        self.num_iterations_per_epoch = int(os.environ.get("CROSSD_NNUNET_STEPS", "4"))
        self.num_val_iterations_per_epoch = 1
        self.losses: list[float] = []

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on a batch, and keep the loss."""
        told = super().train_step(batch)
        self.losses.append(float(told["loss"]))
        return told

    def on_train_end(self) -> None:
        """Write the losses down, and what nnU-Net writes."""
        super().on_train_end()
        where = os.environ.get("CROSSD_NNUNET_CURVE")
        if where:
            Path(where).write_text(json.dumps(self.losses))
