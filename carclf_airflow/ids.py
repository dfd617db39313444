"""Ids of the DAGs, and of the tasks that are not named after a stage."""

RETRAIN_DAG = "car_retrain"
PROMOTE_DAG = "car_promote"
PREDICT_DAG = "car_predict"
EXPERIMENTS_DAG = "car_experiments"
REQUEST_TASK = "request_approval"
ANNOUNCE_TASK = "announce_champion"
CANDIDATES_TASK = "candidates"
METRICS_KEY = "metrics"  # of the XCom in which candidates keeps the metrics of each candidate
CANDIDATE_GROUP = "candidate"  # of car_promote, mapped over the candidates


def approval_subject(run_id: str) -> str:
    """Return the question about a run's candidate, which the page of its approval finds by this text."""
    return f"Promote the model of {run_id} and submit its predictions?"
