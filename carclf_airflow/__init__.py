"""The Airflow side: stages as child processes, the trigger form, approval, notifications, and the pages."""

import os
from pathlib import Path

# Airflow's processes and their children read only the project file that the deployment names, and search for none.
if os.environ.setdefault("CARCLF_PROJECT_FILE", ""):
    from carclf.config import apply_project_file  # not needed by each of Airflow's processes, which load the plugin

    apply_project_file(Path.cwd())
