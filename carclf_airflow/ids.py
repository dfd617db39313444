"""Ids of the DAGs, and of the tasks that are not named after a stage."""

RETRAIN_DAG = "car_retrain"
EXPERIMENTS_DAG = "car_experiments"
ASK_TASK = "approval.ask"
PROMOTE_TASK = "approval.promote"
