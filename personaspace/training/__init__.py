"""Fine-tuning: packed rows, the loop, checkpoints, several GPUs."""

#: A checkpoint's file with the log of the steps before it, which is read without torch.
STEPS = "log.json"
