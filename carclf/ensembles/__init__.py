"""Several models as one: members, weights and the network."""
