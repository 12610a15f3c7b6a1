"""Environment variables for a fast workflow: toy encoders, few pixels and steps."""

from __future__ import annotations

SHORT = {
    "XMDPT_PREPARE_ENCODERS": "toy",
    "XMDPT_PREPARE_RESOLUTION": "32",
    "XMDPT_PREPARE_VAE_STEPS": "2",
    "XMDPT_TRAIN_STEPS": "2",
    "XMDPT_TRAIN_BATCH_SIZE": "2",
    "XMDPT_TRAIN_SAMPLING_STEPS": "2",
    "XMDPT_FINETUNE_VAE_STEPS": "2",
    "XMDPT_FINETUNE_VAE_BATCH_SIZE": "2",
}
