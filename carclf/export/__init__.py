"""Export a trained model in other formats, with its model card."""
