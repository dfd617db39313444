"""The pages of the car classifier in Airflow's UI."""
