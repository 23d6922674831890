"""Fine-tuning: packed rows, the loop, checkpoints, several GPUs."""
