"""Detection of a dataset's layout by evidence: labels, ids, test set, submission, metric and groups."""
