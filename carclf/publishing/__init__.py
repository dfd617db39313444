"""Publishing the champion outside of the store: a folder or bucket, Kaggle Models, MLflow's registry."""
