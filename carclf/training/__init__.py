"""Training: backbones, the head on cached features, and fine-tuning."""
