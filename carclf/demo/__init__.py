"""A rendered competition and a loopback server that speaks Kaggle's protocol."""
