"""Several models as one: its members, their weights, and the network that averages them."""
