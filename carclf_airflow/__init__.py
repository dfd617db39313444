"""The Airflow side: stages as child processes, the trigger form, approval, notifications, and the pages."""

from carclf.config import apply_project_file

apply_project_file()  # the file that CARCLF_PROJECT_FILE names, in each of Airflow's processes
