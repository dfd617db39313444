"""The Airflow side: stages as child processes, the trigger form, approval, notifications, and the pages."""

import os
from pathlib import Path

from carclf.config import PROJECT_VARIABLE, apply_project_file

# Airflow's processes and their children read only the project file that the deployment names, and search for none.
os.environ.setdefault(PROJECT_VARIABLE, "")
apply_project_file(Path.cwd())
