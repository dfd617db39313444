"""Training: backbones, head, fine-tuning."""
