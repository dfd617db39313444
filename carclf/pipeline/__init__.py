"""From examples to batches: decode cache, augmentation, mixing and Grain's loaders."""
