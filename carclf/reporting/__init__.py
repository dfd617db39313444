"""What is shown of runs: facts of one, a comparison of two; and the pages that are made of them."""
