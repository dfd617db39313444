"""Predict the images of a bucket or a folder with one model, shard by shard, each image once."""
