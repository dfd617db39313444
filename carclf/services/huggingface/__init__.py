"""The Hugging Face Hub: checkpoints."""
